"""DeepSeek V3.1, and R1 and V3, which put a word before the name and a fence around the arguments:

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>read_file<｜tool▁sep｜>{"path": "a.txt"}<｜tool▁call▁end｜>
<｜tool▁calls▁end｜>

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>read_file
```json
{"path": "a.txt"}
```<｜tool▁call▁end｜>
<｜tool▁calls▁end｜>
"""

from gateway.chat.tool_calls.named_json import NamedJson


class DeepSeek(NamedJson):
    sections = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
    opening = "<｜tool▁call▁begin｜>"
    separator = "<｜tool▁sep｜>"
    closing = "<｜tool▁call▁end｜>"

    def name_in(self, header: str) -> str:
        first, _, second = header.partition(self.separator)
        return second.strip().removesuffix("```json").strip() or first.strip()
