// The unmodified npm SDK of Anthropic: one plain answer, one stream, one tool round trip. Prints one line of JSON.
// ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY say where; the argument is the model.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";

const model = process.argv[2];
const client = new Anthropic({ maxRetries: 0, timeout: 30_000 });
const says = (content) => ({ role: "user", content });
const tools = [
  {
    name: "get_weather",
    description: "Current weather of a city",
    input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
];
const base = { model, max_tokens: 500 };

const plain = await client.messages.create({ ...base, messages: [says("Say hello.")] });
assert.equal(plain.content[0].type, "text");
assert.ok(plain.usage.output_tokens > 0);

const stream = client.messages.stream({ ...base, messages: [says("Say hello.")] });
let text = "";
stream.on("text", (delta) => (text += delta));
const whole = await stream.finalMessage();
assert.equal(text, whole.content[0].text);
assert.ok(whole.usage.output_tokens > 0);

const question = says("What is the weather in Oslo?");
const first = await client.messages.stream({ ...base, tools, messages: [question] }).finalMessage();
assert.equal(first.stop_reason, "tool_use");
const called = first.content.find((block) => block.type === "tool_use");
assert.equal(typeof called.input.city, "string");
const result = { type: "tool_result", tool_use_id: called.id, content: "4 degrees" };
const second = await client.messages.create({
  ...base,
  tools,
  messages: [question, { role: "assistant", content: first.content }, says([result])],
});
assert.equal(second.stop_reason, "end_turn");

const listed = [];
for await (const each of client.models.list()) listed.push(each.id);
assert.ok(listed.includes(model));

await assert.rejects(client.messages.create({ ...base, model: "nothing-like-it", messages: [says("Hi.")] }), Anthropic.NotFoundError);
console.log(JSON.stringify({ plain: plain.content[0].text, text, after: second.content[0].text, called: called.input }));
