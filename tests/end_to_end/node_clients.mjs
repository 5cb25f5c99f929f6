// The Node SDKs that people write clients with. Arguments: the folder of their packages, the server's URL with /v1, the
// model's id, and what to do. Prints JSON.

import { createRequire } from "node:module";

const [folder, baseURL, model, task] = process.argv.slice(2);
const require = createRequire(`${folder}/`);
const { OpenAI } = require("openai");
const { generateText, stepCountIs, streamText, tool } = require("ai");
const { createOpenAICompatible } = require("@ai-sdk/openai-compatible");
const { z } = require("zod");

const apiKey = "no-key-is-needed";
const openai = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const vercel = createOpenAICompatible({ name: "gateway", baseURL, apiKey, includeUsage: true })(model);
const prompt = "What is the capital of France? Answer in one sentence.";
const messages = [{ role: "user", content: prompt }];

const tasks = {
  async openaiWhole() {
    const answer = await openai.chat.completions.create({ model, messages, temperature: 0 });
    const [choice] = answer.choices;
    return { text: choice.message.content, finish: choice.finish_reason, usage: answer.usage };
  },
  async openaiStream() {
    const stream_options = { include_usage: true };
    const stream = await openai.chat.completions.create({ model, messages, temperature: 0, stream: true, stream_options });
    const read = { text: "", finish: null, usage: null };
    for await (const chunk of stream) {
      read.text += chunk.choices[0]?.delta.content ?? "";
      read.finish = chunk.choices[0]?.finish_reason ?? read.finish;
      read.usage = chunk.usage ?? read.usage;
    }
    return read;
  },
  async openaiError() {
    try {
      await openai.chat.completions.create({ model: "another", messages });
    } catch (error) {
      return { status: error.status, code: error.code, message: error.message };
    }
  },
  async openaiModels() {
    const ids = [];
    for await (const entry of openai.models.list()) ids.push(entry.id);
    return { ids, retrieved: (await openai.models.retrieve(model)).id };
  },
  async vercelWhole() {
    const { text, finishReason, usage } = await generateText({ model: vercel, prompt, temperature: 0, maxRetries: 0 });
    return { text, finish: finishReason, usage };
  },
  async vercelStream() {
    const answer = streamText({ model: vercel, prompt, temperature: 0, maxRetries: 0 });
    let text = "";
    for await (const piece of answer.textStream) text += piece;
    return { text, finish: await answer.finishReason, usage: await answer.usage };
  },
  async vercelTools() {
    const asked = [];
    const weather = tool({
      description: "The weather in a city",
      inputSchema: z.object({ city: z.string(), days: z.number().int().optional() }),
      execute: async (input) => {
        asked.push(input);
        return { sky: `clear over ${input.city}` };
      },
    });
    const answer = streamText({ model: vercel, prompt, tools: { weather }, stopWhen: stepCountIs(4), maxRetries: 0 });
    const kinds = new Set();
    for await (const part of answer.stream ?? answer.fullStream) kinds.add(part.type);
    const steps = (await answer.steps).map((step) => step.finishReason);
    const reasoning = (await answer.steps).map((step) => step.reasoningText ?? null);
    return { asked, text: await answer.text, steps, reasoning, kinds: [...kinds] };
  },
};
console.log(JSON.stringify(await tasks[task]()));
