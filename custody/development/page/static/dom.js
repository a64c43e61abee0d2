// Elements, made without a line of HTML: what is shown may be anybody's text.

/** Return the element with this id. */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element.
 *
 * `given` are attributes, or with "on" in front handlers; false and null leave one out.
 */
export function make(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Return a text with its middle left out. */
export function short(text, ends = 6) {
  return text.length > 2 * ends + 4 ? `${text.slice(0, ends)}…${text.slice(-ends)}` : text;
}

/** Return a number and its noun, in the plural where that fits. */
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** Return a user's id as a name. */
export function named(user) {
  return user.charAt(0).toUpperCase() + user.slice(1);
}
