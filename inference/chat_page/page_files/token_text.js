// Tokens for people: white space and bytes that are not a whole character are made visible.
//
// The bytes of a token are a string of characters below 256 ("binary string"), which is short in JSON.

const NAMES = { " ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍" };
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Zs}]/gu;
const BINS = [0.9, 0.5, 0.2, 0.05];

/** Return the bytes of a token as /v1/completions names it. */
export function bytesOfText(name) {
  if (name.startsWith("bytes:\\x")) {
    const numbers = name.slice("bytes:\\x".length).split("\\x");
    if (numbers.every((each) => /^[0-9a-f]{2}$/.test(each))) {
      return String.fromCharCode(...numbers.map((each) => parseInt(each, 16)));
    }
  }
  return String.fromCharCode(...new TextEncoder().encode(name));
}

export const byteNumbers = (bytes) => Array.from(bytes, (character) => character.charCodeAt(0));

function textOf(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(byteNumbers(bytes)));
  } catch {
    return null;
  }
}

const hexadecimal = (number, digits) => number.toString(16).toUpperCase().padStart(digits, "0");

/** Return a token as one visible word, such as "␣the", "↵" or "0xE2 0x80". */
export function visible(bytes) {
  if (bytes === "") return "(no text)";
  const text = textOf(bytes);
  if (text === null) return byteNumbers(bytes).map((number) => "0x" + hexadecimal(number, 2)).join(" ");
  return text.replace(INVISIBLE, (each) => NAMES[each] ?? "U+" + hexadecimal(each.codePointAt(0), 4));
}

/** Return a token as it stands in a running text: spaces within it stay, line ends are kept. */
export function inText(bytes) {
  const text = textOf(bytes);
  if (text === null || text.trim() === "") return visible(bytes) + (text?.includes("\n") ? "\n" : "");
  return text.replace(INVISIBLE, (each) => (each === " " ? each : each === "\n" ? "↵\n" : visible(bytesOfText(each))));
}

/** Return the class of a probability: 0 for a likely token to 4 for a surprising one. */
export function binOf(probability) {
  const bin = BINS.findIndex((least) => probability >= least);
  return bin === -1 ? BINS.length : bin;
}

/** Return a probability in per cent, with the digits that mean something. */
export function percent(probability) {
  const value = 100 * probability;
  if (value >= 99.95) return value === 100 ? "100 %" : "> 99.9 %";
  if (value >= 10) return value.toFixed(1) + " %";
  if (value >= 0.01) return value.toFixed(2) + " %";
  return "< 0.01 %";
}
