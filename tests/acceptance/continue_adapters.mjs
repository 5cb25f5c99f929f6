// What Continue's IDE extensions ask of a server besides chat, asked through the package that they use for it.
// Arguments: the package's folder, the server's URL with /v1/, the model's id, and what to do. Prints JSON.

const [folder, apiBase, model, task] = process.argv.slice(2);
const { constructLlmApi } = await import(`${folder}/dist/index.js`);
const api = constructLlmApi({ provider: "openai", apiBase, apiKey: "no-key-is-needed" });
const { signal } = new AbortController();

const PREFIX = "def keyword():\n    return ";
const SUFFIX = "\n\nprint(keyword())\n";
const STOPS = ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
  "<|file_sep|>", "<|im_start|>", "<|im_end|>", "/src/", "#- coding: utf-8", "```"];

const tasks = {
  async fillIn() {
    let text = "";
    const body = { model, prompt: PREFIX, suffix: SUFFIX, stop: STOPS, max_tokens: 100, temperature: 0.01 };
    for await (const chunk of api.fimStream(body, signal)) text += chunk.choices[0].delta.content ?? "";
    return text;
  },
  async complete() {
    let text = "";
    const prompt = `<|fim_prefix|>${PREFIX}<|fim_suffix|>${SUFFIX}<|fim_middle|>`;
    const body = { model, prompt, stop: STOPS, max_tokens: 100, temperature: 0.01, stream: true };
    for await (const chunk of api.completionStream(body, signal)) text += chunk.choices[0]?.text ?? "";
    return text;
  },
  async chat() {
    const messages = [{ role: "user", content: "Which keyword?" }];
    let text = "";
    let usage = null;
    const body = { model, messages, stream: true, stream_options: { include_usage: true } };
    for await (const chunk of api.chatCompletionStream(body, signal)) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    return { text, usage };
  },
  async embed() {
    const answer = await api.embed({ model, input: ["A cat sat.", "A kitten was sitting.", "Taxes are due."] });
    return answer.data.map((entry) => entry.embedding);
  },
  async rerank() {
    const documents = ["Taxes are due.", "A kitten was sitting."];
    const answer = await api.rerank({ model, query: "Where is the cat?", documents });
    return answer.data;
  },
  async list() {
    return (await api.list()).map((entry) => entry.id);
  },
};
console.log(JSON.stringify(await tasks[task]()));
