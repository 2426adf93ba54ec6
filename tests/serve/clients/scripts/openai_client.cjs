// openai-node: images, chats (streamed too) and responses. Prints one object with the pictures in base64.
const { createRequire } = require("node:module");
const [folder, url] = process.argv.slice(2);
const { OpenAI } = createRequire(`${folder}/package.json`)("openai");

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const few = { size: "64x64", num_inference_steps: 2 };
const messages = [{ role: "user", content: "a red circle" }];
const base64 = (image) => image.image_url.url.split(",")[1];

(async () => {
  const found = {};
  found.image = (await client.images.generate({ model: "demo", prompt: "a star", ...few })).data[0].b64_json;
  const chat = await client.chat.completions.create({ model: "demo", messages, ...few });
  found.content = chat.choices[0].message.content;
  found.chat = base64(chat.choices[0].message.images[0]);
  const final = await client.chat.completions.stream({ model: "demo", messages, ...few }).finalMessage();
  found.stream = base64(final.images[0]);
  const followed = await client.chat.completions.create({
    model: "demo", messages: [...messages, chat.choices[0].message, { role: "user", content: "make it blue" }], ...few,
  });
  found.edited = base64(followed.choices[0].message.images[0]);
  const tools = [{ type: "image_generation", size: "64x64", partial_images: 1 }];
  const response = await client.responses.create({ model: "demo", input: "a star", tools, num_inference_steps: 4 });
  found.response = response.output[0].result;
  found.kinds = [];
  for await (const event of await client.images.generate({
    model: "demo", prompt: "a star", size: "64x64", num_inference_steps: 4, stream: true, partial_images: 2,
  })) found.kinds.push(event.type);
  console.log(JSON.stringify(found));
})();
