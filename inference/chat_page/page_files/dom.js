// Elements from descriptions. Text is always set as text, so no answer can become HTML.

/**
 * Return an element.
 * @param {string} tag
 * @param {Object} given `class`, `on` (listeners), `text`, properties such as `value`, and any
 *   attribute with a hyphen, such as `aria-label`; undefined and false leave one out.
 * @param {...(Node|string)} children
 */
export function element(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === false) continue;
    if (name === "class") made.className = value;
    else if (name === "text") made.textContent = value;
    else if (name === "on") for (const [kind, act] of Object.entries(value)) made.addEventListener(kind, act);
    else if (name.includes("-") || name === "role" || name === "for") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Return a button with a text. */
export function button(text, act, given = {}) {
  return element("button", { type: "button", class: "quiet", text, ...given, on: { click: act } });
}

export const byId = (id) => document.getElementById(id);
