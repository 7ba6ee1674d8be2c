// Unit tests of recipes/space/answers.js: node --test space_answers.mjs FILE
import assert from "node:assert/strict";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

const { bestSpan, findAnswer, makeWindows, splitWords, tokenize, visible } = await import(
  pathToFileURL(process.env.ANSWERS).href
);

const CLS = -1, SEP = -2;
const encode = (text) => [...text.toLowerCase().normalize("NFD").replace(/\p{Mn}/gu, "")].map((c) => c.codePointAt(0));

// A network that is sure of the n-th place with the tokens of a wanted text.
async function find(wanted, context, { nth = 0, question = "which?", maxLength = 384, stride = 8 } = {}) {
  const ids = tokenize(wanted, encode).map(({ id }) => id);
  let seen = -1;
  const run = async (window) => {
    const start = window.map(() => -9), end = window.map(() => -9);
    for (let i = question.length + 2; i + ids.length <= window.length; i += 1) {
      if (ids.every((id, k) => window[i + k] === id)) {
        seen += 1;
        if (seen >= nth) { start[i] = 9; end[i + ids.length - 1] = 9; break; }
      }
    }
    return { start, end };
  };
  const found = await findAnswer(question, context, { encode, run, cls: CLS, sep: SEP, maxLength, stride });
  return found && context.slice(found.start, found.end);
}

test("hard answers are found at their places", async () => {
  const cases = [
    ["-", "a - b", "-"], ["10-year", "a 10-year plan", "10-year"], ["u.s.", "The U.S. is big.", "U.S."],
    ["beyonce", "The singer Beyoncé was born.", "Beyoncé"], ["muller", "Herr Müller kam.", "Müller"],
    ["naive", "a naïve man", "naïve"], ["cafe", "the cafe\u0301", "cafe\u0301"], ["$5 (about)", "is $5 (about) it", "$5 (about)"],
    ["東京", "in 東京 today", "東京"], ["paris", "born in \u200bparis\u200b", "paris"], ["new york", "In New York City", "New York"],
    ["[sep]", "the [SEP] dog", "[SEP]"], ["❤️", "a ❤️ b", "❤️"], ["c++", "in C++ now", "C++"], ["a\\b", "in a\\b now", "a\\b"],
  ];
  for (const [wanted, context, expected] of cases) assert.equal(await find(wanted, context), expected, context);
});

test("whole words are found, not parts of others", async () => {
  const context = "In 1910 there was 1 house. The party was about art.";
  assert.deepEqual(splitWords("In 1910").map(({ start, end }) => [start, end]), [[0, 2], [3, 7]]);
  const at = (word) => tokenize(context, (text) => [text]).find(({ id }) => id === word).start;
  assert.equal(at("1"), context.indexOf(" 1 ") + 1);
  assert.equal(at("art"), context.lastIndexOf("art"));
});

test("of the same text at two places, the one that the network means", async () => {
  const context = "Paris, Texas, is small. The Eiffel Tower is in Paris.";
  const second = (ids, start) => ids.lastIndexOf(start);
  const run = async (ids) => {
    const at = second(ids, encode("p")[0]), logits = ids.map(() => -9);
    const start = [...logits], end = [...logits];
    start[at] = 9; end[at + 4] = 9;
    return { start, end };
  };
  const found = await findAnswer("which?", context, { encode, run, cls: CLS, sep: SEP, maxLength: 384, stride: 8 });
  assert.equal(found.start, context.lastIndexOf("Paris"));
  assert.ok(found.score > 0.9 && found.score <= 1);
});

test("windows cover the context, overlap and are not longer than the network's positions", () => {
  const context = Array.from({ length: 100 }, (_, id) => ({ id, start: id, end: id + 1 }));
  const question = context.slice(0, 40);
  const windows = makeWindows(question, context, { cls: CLS, sep: SEP, maxLength: 32, stride: 8 });
  assert.ok(windows.every(({ ids, types }) => ids.length <= 32 && types.length === ids.length));
  assert.deepEqual(new Set(windows.flatMap(({ tokens }) => tokens)).size, 100);
  const [one, two] = windows;
  assert.ok(one.tokens.some((token) => two.tokens.includes(token)));
  assert.deepEqual(makeWindows(question, [], { cls: CLS, sep: SEP, maxLength: 32, stride: 8 }), []);
});

test("a text without words has no answer, and no token of the question is one", async () => {
  assert.equal(await find("x", " \n\u3000"), null);
  const span = bestSpan({ tokens: [{ start: 0, end: 3 }], first: 4 }, [0, 9, 9, 9, 1, 0], [0, 9, 9, 9, 1, 0]);
  assert.deepEqual([span.start, span.end], [0, 3]);
  assert.ok(span.score < 1);
  assert.equal(await find("paris", `${"word ".repeat(40)}in paris now`, { maxLength: 40 }), "paris");
});

test("invisible edges are cut off", () => {
  assert.deepEqual(visible("\u00a0\u200bab\u200b\n", 0, 6), { start: 2, end: 4 });
  assert.deepEqual(visible("\u200b", 0, 1), { start: 1, end: 1 });
});
