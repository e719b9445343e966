// The unmodified npm SDK of OpenAI: one plain answer, one stream, one tool round trip. Prints one line of JSON.
// OPENAI_BASE_URL and OPENAI_API_KEY say where; the argument is the model.
import assert from "node:assert/strict";
import OpenAI from "openai";

const model = process.argv[2];
const client = new OpenAI({ maxRetries: 0, timeout: 30_000 });
const says = (content) => ({ role: "user", content });
const tool = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Current weather of a city",
    parameters: {
      type: "object",
      properties: { city: { type: "string" } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};

const plain = await client.chat.completions.create({ model, messages: [says("Say hello.")] });
assert.ok(plain.choices[0].message.content);
assert.ok(plain.usage.completion_tokens > 0);
assert.ok(plain._request_id);

const stream = client.chat.completions.stream({
  model,
  messages: [says("Say hello.")],
  stream_options: { include_usage: true },
});
let text = "";
stream.on("content", (delta) => (text += delta));
const whole = await stream.finalChatCompletion();
assert.equal(text, whole.choices[0].message.content);
assert.ok(whole.usage.completion_tokens > 0);

let called;
const runner = client.chat.completions.runTools({
  model,
  messages: [says("What is the weather in Oslo?")],
  tools: [{ ...tool, function: { ...tool.function, parse: JSON.parse, function: (given) => ((called = given), "4 degrees") } }],
});
const after = await runner.finalContent();
assert.equal(typeof called.city, "string");
assert.ok(after);

const listed = [];
for await (const each of client.models.list()) listed.push(each.id);
assert.ok(listed.includes(model));

await assert.rejects(client.chat.completions.create({ model: "nothing-like-it", messages: [says("Hi.")] }), OpenAI.NotFoundError);
console.log(JSON.stringify({ plain: plain.choices[0].message.content, text, after, called }));
