// The panel that shows an answer from inside: its tokens by their probability, and the alternatives
// of the chosen one. The attention below them is a part of its own (attention.js).

import { AttentionPart } from "./attention.js";
import { button, byId, element } from "./dom.js";
import { keyboardChoice } from "./token_keys.js";
import { binOf, byteNumbers, inText, percent, visible } from "./token_text.js";

const BIN_NAMES = ["90 % or more", "50 %", "20 %", "5 %", "less"];

export class InsidePanel {
  constructor() {
    this.place = byId("inside");
    this.attention = new AttentionPart((position) => this.select(position - this.attention.numPrompt, false));
  }

  /** Show an answer.
   * @param {Object} answer
   * @param {Object} prompt the fields of the request that name what came before: messages or prompt
   * @param {Object} facts of the answer's model; undefined if it is not served any more
   * @param {number} mostTokens of a text whose attention the server shows
   */
  show(answer, prompt, facts, mostTokens, close) {
    this.answer = answer;
    this.tokens = answer.tokens.map((token, number) => this.tokenButton(token, number));
    this.details = element("div", { class: "details", role: "status" });
    const list = element("div", { class: "tokens", role: "group", "aria-label": "Tokens of the answer" }, ...this.tokens);
    list.addEventListener("keydown", (event) => this.move(event));
    const closing = button("Close", close);
    this.place.replaceChildren(
      element("div", { class: "panel-head" }, element("h2", { text: "Look inside" }), closing),
      element("p", { class: "soft", text: answer.model }),
      element("h3", { text: "How sure the model was" }),
      legend(),
      list,
      this.details,
      element("p", { class: "soft", text: "Probabilities are the model’s own, before temperature and the other settings." }),
    );
    if (facts) this.place.append(this.attention.show(answer, prompt, facts, mostTokens));
    this.select(0, true);
    closing.focus();
  }

  tokenButton(token, number) {
    const probability = Math.exp(token.logprob);
    return element("span", {
      role: "button",
      class: `token p${binOf(probability)}`,
      tabIndex: -1,
      text: inText(token.bytes),
      title: `${visible(token.bytes)}  ${percent(probability)}`,
      "aria-label": `${visible(token.bytes)}, ${percent(probability)}`,
      on: { click: () => this.select(number, true) },
    });
  }

  move(event) {
    const number = keyboardChoice(event, Math.max(this.selected, 0), this.tokens.length);
    if (number === null) return;
    this.select(number, true);
    this.tokens[number].focus();
  }

  /** Choose a token of the answer; a number below 0 is a token of the prompt. */
  select(number, tellAttention) {
    this.selected = number;
    this.tokens.forEach((each, place) => {
      each.setAttribute("aria-pressed", place === number);
      each.tabIndex = place === Math.max(number, 0) ? 0 : -1;
    });
    const token = this.answer.tokens[number];
    if (token) this.details.replaceChildren(...alternatives(token));
    else this.details.replaceChildren(element("p", { class: "soft", text: "A token of the prompt: it was given, not drawn." }));
    if (tellAttention) this.attention.selectAnswer(number);
  }
}

function legend() {
  const bins = BIN_NAMES.map((name, bin) => element("span", { class: `token p${bin}`, text: name }));
  return element("p", { class: "legend", role: "note", "aria-label": "Legend: probability of the drawn token" }, ...bins);
}

function alternatives(token) {
  const isListed = token.best.some(([bytes]) => bytes === token.bytes);
  const rows = isListed ? token.best : [...token.best, [token.bytes, token.logprob]];
  const head = element("p", { class: "drawn" }, element("code", { text: visible(token.bytes) }));
  head.append(` was drawn with probability ${percent(Math.exp(token.logprob))}`);
  if (byteNumbers(token.bytes).length === 0) head.append(" (a control token)");
  const table = element("table", { class: "bars" }, element("caption", { class: "unseen", text: "The likeliest tokens at this place" }));
  for (const [bytes, logprob] of rows) {
    const isDrawn = bytes === token.bytes;
    const bar = element("span", { class: "bar" });
    bar.style.width = `${100 * Math.exp(logprob)}%`;
    const name = element("th", { scope: "row" }, element("code", { text: visible(bytes) }));
    if (isDrawn) name.append(element("span", { class: "mark", text: "drawn" }));
    const value = element("td", { class: "value", text: percent(Math.exp(logprob)) });
    table.append(element("tr", { class: isDrawn ? "is-drawn" : "" }, name, element("td", {}, bar), value));
  }
  return [head, table];
}
