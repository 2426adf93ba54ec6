// The AI SDK with three of its providers. Prints one object with the pictures in base64.
const { createRequire } = require("node:module");
const [folder, url] = process.argv.slice(2);
const load = createRequire(`${folder}/package.json`);
const { generateText, streamText, experimental_generateImage: generateImage } = load("ai");
const { createOpenAI } = load("@ai-sdk/openai");
const { createOpenAICompatible } = load("@ai-sdk/openai-compatible");
const { createOpenRouter } = load("@openrouter/ai-sdk-provider");

globalThis.AI_SDK_LOG_WARNINGS = false;
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
const compatible = createOpenAICompatible({ name: "interlace", baseURL: `${url}/v1`, apiKey: "none" });
const openrouter = createOpenRouter({ baseURL: `${url}/api/v1`, apiKey: "none", extraBody: { num_inference_steps: 2, size: "64x64" } });
const once = { maxRetries: 0 };

(async () => {
  const found = {};
  const picture = async (model, options = {}) =>
    (await generateImage({ model, prompt: "a star", size: "64x64", ...once, ...options })).image.base64;
  found.openaiImage = await picture(openai.image("demo"));
  found.compatibleImage = await picture(compatible.imageModel("demo"), { providerOptions: { interlace: { num_inference_steps: 2 } } });
  found.routedImage = await picture(openrouter.imageModel("demo"), { seed: 7 });
  const chat = await generateText({ model: openrouter("demo"), prompt: "a red circle", ...once });
  found.routed = chat.files[0].base64;
  const streamed = streamText({ model: openrouter("demo"), prompt: "a red circle", ...once });
  found.text = await streamed.text;
  found.routedStream = (await streamed.files)[0].base64;
  const plain = await generateText({
    model: compatible("demo"), prompt: "a red circle", ...once,
    providerOptions: { interlace: { num_inference_steps: 2, size: "64x64" } },
  });
  found.compatible = plain.response.body.choices[0].message.images[0].image_url.url.split(",")[1];
  const response = await generateText({
    model: openai.responses("demo"), prompt: "a star", ...once,
    tools: { image_generation: openai.tools.imageGeneration({ outputFormat: "png", size: "auto", quality: "low" }) },
  });
  found.response = response.staticToolResults?.[0]?.output.result ?? response.toolResults[0].output.result;
  const old = await generateText({ model: openai.chat("demo"), prompt: "a red circle", ...once });
  found.old = old.response.body.choices[0].message.images[0].image_url.url.split(",")[1];
  console.log(JSON.stringify(found));
})();
