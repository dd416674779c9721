// The settings of a conversation: the system prompt, and how each token is drawn.

import { DEFAULT_SAMPLING } from "./conversation.js";
import { button, byId, element } from "./dom.js";

const CONTROLS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, help: "0 always takes the likeliest token." },
  { name: "top_p", label: "Top-p", min: 0.05, max: 1, step: 0.05, help: "The likeliest tokens that together reach this probability; 1 for all." },
  { name: "top_k", label: "Top-k", min: 0, max: 100, step: 1, help: "So many of the likeliest tokens; 0 for all." },
  { name: "min_p", label: "Min-p", min: 0, max: 0.5, step: 0.01, help: "Tokens of at least this share of the likeliest one's probability." },
];
const NUMBERS = [
  { name: "max_tokens", label: "Most tokens of an answer", least: 1, most: 1_000_000, empty: "the context" },
  { name: "seed", label: "Seed", least: 0, most: Number.MAX_SAFE_INTEGER, empty: "at random" },
];

/** Draw the panel; `changed()` is called after each change of the conversation, `close()` at its end. */
export function showSettings(conversation, changed, close) {
  const { sampling } = conversation;
  const system = element("textarea", { id: "system", rows: 4, value: conversation.system, placeholder: "None" });
  system.addEventListener("input", () => {
    conversation.system = system.value;
    changed();
  });
  const reset = button("Reset", () => {
    conversation.system = "";
    conversation.sampling = { ...DEFAULT_SAMPLING };
    changed();
    showSettings(conversation, changed, close);
  });
  const isChat = conversation.mode === "chat";
  byId("settings").replaceChildren(
    element("div", { class: "panel-head" }, element("h2", { text: "Settings" }), button("Close", close)),
    element("p", { class: "soft", text: "For this conversation; they take effect with the next answer." }),
    ...(isChat ? [element("label", { for: "system", text: "System prompt" }), system] : []),
    ...CONTROLS.map((control) => slider(control, sampling, changed)),
    ...NUMBERS.map((control) => number(control, sampling, changed)),
    element("div", { class: "row" }, reset),
  );
}

function slider({ name, label, min, max, step, help }, sampling, changed) {
  const value = sampling[name] ?? DEFAULT_SAMPLING[name];
  const range = element("input", { type: "range", id: name, min, max, step, value, "aria-describedby": `${name}-help` });
  const shown = element("output", { for: name, text: String(value) });
  range.addEventListener("input", () => {
    sampling[name] = Number(range.value);
    shown.textContent = range.value;
    changed();
  });
  const head = element("div", { class: "row" }, element("label", { for: name, text: label }), shown);
  return element("div", { class: "control" }, head, range, element("p", { class: "soft", id: `${name}-help`, text: help }));
}

function number({ name, label, least, most, empty }, sampling, changed) {
  const field = element("input", { type: "text", inputMode: "numeric", id: name, value: sampling[name] ?? "", placeholder: empty });
  field.addEventListener("input", () => {
    const text = field.value.trim();
    const value = text === "" ? null : Number(text);
    const isValid = value === null || (Number.isInteger(value) && value >= least && value <= most);
    field.setAttribute("aria-invalid", !isValid);
    if (!isValid) return;
    sampling[name] = value;
    changed();
  });
  return element("div", { class: "control row" }, element("label", { for: name, text: label }), field);
}
