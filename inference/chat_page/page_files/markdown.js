// A small part of Markdown as elements: code, lists, headings, bold, italics. All else stays text.

import { element } from "./dom.js";

const INLINE = /(`[^`\n]+`)|(\*\*[^*\n]+(?:\*[^*\n]+)*\*\*)|(\*[^*\s][^*\n]*\*)/;
const ITEM = /^\s*(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/;

/** Return the nodes of a text. */
export function markdown(text) {
  const nodes = [];
  const lines = text.split("\n");
  let paragraph = [];
  const endParagraph = () => {
    const joined = paragraph.join("\n").trim();
    if (joined !== "") nodes.push(element("p", {}, ...inline(joined)));
    paragraph = [];
  };
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at];
    if (/^\s*```/.test(line)) {
      endParagraph();
      const code = [];
      while (++at < lines.length && !/^\s*```\s*$/.test(lines[at])) code.push(lines[at]);
      nodes.push(element("pre", { tabIndex: 0 }, element("code", { text: code.join("\n") })));
    } else if (ITEM.test(line)) {
      endParagraph();
      const isNumbered = ITEM.exec(line)[2] !== undefined;
      const list = element(isNumbered ? "ol" : "ul");
      if (isNumbered) list.start = Number(ITEM.exec(line)[2]);
      for (; at < lines.length; at++) {
        const item = ITEM.exec(lines[at]);
        if (item === null || (item[2] !== undefined) !== isNumbered) break;
        list.append(element("li", {}, ...inline(item[3])));
      }
      at -= 1;
      nodes.push(list);
    } else if (/^#{1,6}\s+\S/.test(line)) {
      endParagraph();
      nodes.push(element("p", { class: "heading" }, ...inline(line.replace(/^#+\s+/, ""))));
    } else if (line.trim() === "") endParagraph();
    else paragraph.push(line);
  }
  endParagraph();
  return nodes;
}

function inline(text) {
  const nodes = [];
  for (let found; (found = INLINE.exec(text)); ) {
    nodes.push(text.slice(0, found.index));
    const [whole, code, bold, italic] = found;
    if (code) nodes.push(element("code", { text: whole.slice(1, -1) }));
    else if (bold) nodes.push(element("strong", {}, ...inline(whole.slice(2, -2))));
    else if (italic) nodes.push(element("em", {}, ...inline(whole.slice(1, -1))));
    text = text.slice(found.index + whole.length);
  }
  nodes.push(text);
  return nodes.filter((node) => node !== "");
}
