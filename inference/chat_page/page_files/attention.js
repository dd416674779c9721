// The attention of a chosen head: which tokens each token looks at, as shades and as a heat map.

import { ApiFailure, json } from "./api.js";
import { element } from "./dom.js";
import { keyboardChoice } from "./token_keys.js";
import { byteNumbers, inText, percent, visible } from "./token_text.js";

const PAUSE = 120; // milliseconds that a slider rests before the server is asked
const places = new Map(); // model -> the layer and head that were last looked at

export class AttentionPart {
  /** @param {function(number)} chosen is told the position of a token that was chosen here. */
  constructor(chosen) {
    this.chosen = chosen;
    this.numPrompt = 0;
  }

  /** Return the part for an answer; see InsidePanel.show. */
  show(answer, prompt, facts, mostTokens) {
    Object.assign(this, { answer, prompt, facts, mostTokens, found: null, kept: new Map(), position: 0, number: 0 });
    this.at = places.get(facts.id) ?? { layer: Math.floor(facts.num_layers / 2), head: 0 };
    places.set(facts.id, this.at);
    this.message = element("p", { class: "soft", role: "status", text: "Reading …" });
    this.list = element("div", { class: "tokens attended", role: "group", "aria-label": "What the chosen token looks at" });
    this.list.addEventListener("keydown", (event) => this.move(event));
    this.isFirstLeftOut = element("input", { type: "checkbox" });
    this.isFirstLeftOut.addEventListener("change", () => this.found && this.draw(this.found));
    this.canvas = element("canvas", { class: "map", role: "img" });
    this.canvas.addEventListener("click", (event) => this.pick(event));
    this.read();
    return element(
      "section",
      { class: "attention", "aria-label": "Attention" },
      element("h3", { text: "What a token looks at" }),
      this.slider("layer", "Layer", facts.num_layers),
      this.slider("head", "Head", facts.num_heads),
      this.message,
      element("label", { class: "tick" }, this.isFirstLeftOut, "No colour for the first token, where many heads put what they do not need"),
      this.list,
      element("p", { class: "soft", text: "All tokens: each row is a token, each column a token that it looks at." }),
      this.canvas,
    );
  }

  slider(name, label, count) {
    const shown = element("output", { for: `attention-${name}` });
    const range = element("input", { type: "range", id: `attention-${name}`, min: 0, max: count - 1, step: 1, value: this.at[name] });
    const tell = () => (shown.textContent = `${range.value} (0 to ${count - 1})`);
    range.addEventListener("input", () => {
      this.at[name] = Number(range.value);
      tell();
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.read(), PAUSE);
    });
    tell();
    return element("div", { class: "control" }, element("div", { class: "row" }, element("label", { for: range.id, text: label }), shown), range);
  }

  /** Ask for the weights of the chosen head, unless they are here already. */
  async read() {
    const { layer, head } = this.at;
    const place = `${layer} ${head}`;
    this.controller?.abort();
    this.controller = new AbortController();
    const { signal } = this.controller;
    if (!this.kept.has(place)) {
      const answer = this.answer.tokens.map((token) => byteNumbers(token.bytes));
      const body = { model: this.facts.id, ...this.prompt, answer, layer, head };
      try {
        this.kept.set(place, await json("inside/attention", body, signal));
      } catch (error) {
        if (!(error instanceof ApiFailure)) return; // another head was chosen meanwhile
        this.message.textContent = error.message;
        this.list.replaceChildren();
        this.canvas.hidden = true;
        return;
      }
    }
    if (!signal.aborted) this.draw(this.kept.get(place));
  }

  draw(found) {
    const isFirst = this.found === null;
    this.found = found;
    this.numPrompt = found.num_prompt;
    if (isFirst || this.list.childElementCount === 0) {
      this.buttons = found.tokens.map((numbers, position) => this.tokenButton(String.fromCharCode(...numbers), position));
      this.list.replaceChildren(...this.buttons);
      this.position = Math.min(this.numPrompt + this.number, found.tokens.length - 1);
    }
    this.canvas.hidden = false;
    this.drawMap();
    this.shade(this.position);
  }

  tokenButton(bytes, position) {
    return element("span", {
      role: "button",
      class: position < this.numPrompt ? "token of-prompt" : "token",
      tabIndex: -1,
      text: inText(bytes),
      on: {
        click: () => this.choose(position),
        pointerenter: () => this.shade(position),
        pointerleave: () => this.shade(this.position),
      },
    });
  }

  move(event) {
    const position = keyboardChoice(event, this.position, this.buttons.length);
    if (position === null) return;
    this.choose(position);
    this.buttons[position].focus();
  }

  choose(position) {
    this.position = position;
    this.number = position - this.numPrompt;
    this.shade(position);
    this.chosen(position);
  }

  /** Take over the choice of a token of the answer. */
  selectAnswer(number) {
    this.number = number;
    if (!this.found) return;
    this.position = Math.min(this.numPrompt + number, this.found.tokens.length - 1);
    this.shade(this.position);
  }

  /** Return how strongly each weight of a row is coloured, from 0 to 1. Small weights are raised by
   * the square root; without the first token, the largest of the others has the full colour. */
  strengths(row) {
    const isLeftOut = this.isFirstLeftOut.checked && row.length > 1;
    const largest = isLeftOut ? Math.max(...row.slice(1), 1e-6) : 1;
    return row.map((weight, place) => (isLeftOut && place === 0 ? 0 : Math.sqrt(weight / largest)));
  }

  /** Shade every token by the weight that the token at `position` gives it. */
  shade(position) {
    const row = this.found.weights[position];
    const strengths = this.strengths(row);
    this.buttons.forEach((each, place) => {
      const weight = row[place] ?? 0;
      const name = visible(String.fromCharCode(...this.found.tokens[place]));
      each.style.setProperty("--weight", (strengths[place] ?? 0).toFixed(3));
      each.classList.toggle("chosen", place === position);
      each.tabIndex = place === this.position ? 0 : -1;
      each.classList.toggle("behind", place > position);
      const text = place > position ? `${name}: behind the chosen token` : `${name}: ${percent(weight)}`;
      each.title = text;
      each.setAttribute("aria-label", text);
      each.dataset.weight = weight;
    });
    this.message.replaceChildren(...this.sentence(position, row));
    this.markRow(position);
  }

  sentence(position, row) {
    const name = (place) => element("code", { text: visible(String.fromCharCode(...this.found.tokens[place])) });
    const order = row.map((weight, place) => [weight, place]).sort((one, other) => other[0] - one[0]).slice(0, 3);
    const parts = [name(position), " looks at "];
    order.forEach(([weight, place], number) => {
      if (number > 0) parts.push(", ");
      parts.push(name(place), place === position ? ` (itself) ${percent(weight)}` : ` ${percent(weight)}`);
    });
    return [...parts, ". Click another token to choose it."];
  }

  drawMap() {
    const size = this.found.tokens.length;
    this.canvas.width = this.canvas.height = size;
    this.canvas.setAttribute("aria-label", `Heat map: ${size} tokens looking at ${size} tokens, layer ${this.at.layer}, head ${this.at.head}`);
    const context = this.canvas.getContext("2d");
    const [r, g, b] = getComputedStyle(this.list).getPropertyValue("--map").split(" ").map(Number);
    const image = context.createImageData(size, size);
    this.found.weights.forEach((row, i) => {
      this.strengths(row).forEach((strength, j) => image.data.set([r, g, b, 18 + 237 * strength], 4 * (i * size + j)));
    });
    this.image = image;
  }

  markRow(position) {
    const context = this.canvas.getContext("2d");
    context.putImageData(this.image, 0, 0);
    context.fillStyle = getComputedStyle(this.list).color;
    for (let j = position + 1; j < this.canvas.width; j += 2) context.fillRect(j, position, 1, 1);
  }

  pick(event) {
    const { top, height } = this.canvas.getBoundingClientRect();
    const position = Math.floor(((event.clientY - top) / height) * this.found.tokens.length);
    this.choose(Math.min(Math.max(position, 0), this.found.tokens.length - 1));
  }
}
