"""OLMo 3, one call a line:

<function_calls>
read_file(path="a.txt")
list_files()
</function_calls>
"""

from gateway.chat.tool_calls.marked_functions import MarkedFunctions
from gateway.chat.tool_calls.pythonic import PYTHON


class Olmo3(MarkedFunctions):
    opening = "<function_calls>"
    separator = "\n"
    closing = "</function_calls>"
    syntax = PYTHON
