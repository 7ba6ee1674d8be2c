// Answers questions with an exported student in this browser. Everything it loads lies beside this file: the library in
// vendor/, the model in models/student/.
import { findAnswer } from "./answers.js";
import { AutoModelForQuestionAnswering, AutoTokenizer, Tensor, env } from "./vendor/transformers.min.js";

env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = "models/"; // relative to the page: the library takes an address for a remote place
env.backends.onnx.wasm.wasmPaths = new URL("vendor/", import.meta.url).href;

const element = (id) => document.getElementById(id);
const fields = { context: element("context"), question: element("question"), ask: element("ask") };

function showProgress({ status, file, loaded, total }) {
  if (status === "progress" && file.endsWith(".onnx") && total) element("progress").value = loaded / total;
}

function showAnswer({ start, end, score }, milliseconds) {
  const text = fields.context.value;
  element("answer").textContent = text.slice(start, end);
  element("details").textContent = `score ${score.toFixed(2)}, ${milliseconds.toFixed(0)} ms on this device`;
  const mark = document.createElement("mark");
  mark.textContent = text.slice(start, end);
  element("passage").replaceChildren(text.slice(0, start), mark, text.slice(end));
  element("result").hidden = false;
}

// What `findAnswer` needs of the tokenizer and the model.
async function load() {
  const tokenizer = await AutoTokenizer.from_pretrained("student");
  const model = await AutoModelForQuestionAnswering.from_pretrained("student", {
    dtype: "q8",
    progress_callback: showProgress,
  });
  const [cls, sep] = tokenizer.encode("");
  const tensor = (values) => new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
  return {
    cls,
    sep,
    maxLength: Math.min(384, model.config.max_position_embeddings),
    stride: 128,
    encode: (text) => tokenizer.encode(text, { add_special_tokens: false }),
    run: async (ids, types) => {
      const inputs = { input_ids: tensor(ids), attention_mask: tensor(ids.map(() => 1)), token_type_ids: tensor(types) };
      const { start_logits: start, end_logits: end } = await model(inputs);
      return { start: start.data, end: end.data };
    },
  };
}

async function answer(student) {
  if (!fields.question.value.trim() || !fields.context.value.trim()) {
    element("status").textContent = "Write a text and a question first.";
    return;
  }
  fields.ask.disabled = true;
  element("status").textContent = "Reading …";
  try {
    const start = performance.now();
    const found = await findAnswer(fields.question.value, fields.context.value, student);
    if (found) showAnswer(found, performance.now() - start);
    element("status").textContent = found ? "" : "The text has no words.";
  } catch (error) {
    element("status").textContent = `That did not work: ${error.message}`;
  } finally {
    fields.ask.disabled = false;
  }
}

try {
  const student = await load();
  element("status").textContent = "Ready.";
  fields.ask.disabled = false;
  element("form").addEventListener("submit", (event) => {
    event.preventDefault();
    answer(student);
  });
} catch (error) {
  element("status").textContent = `The model could not be loaded: ${error.message}`;
} finally {
  element("progress").hidden = true;
}
