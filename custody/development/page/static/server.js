// What the server has of a vault, column by column, and who can do what with it.

import { byId, make, named, short } from "/page/dom.js";

const COLUMNS = [
  ["wrapped_mk", "your key, encrypted under the operator’s key (the KEK)", "the operator"],
  ["previous_wrapped_mk", "the key before, encrypted under the live one", "whoever has the live key"],
  ["recovery_wrapped_mk", "your key, encrypted under your recovery code", "your code"],
  ["key_check", "a keyed hash: tells your key from another one", "nobody"],
  ["seal", "a keyed hash of the row: shows if somebody changed it", "nobody"],
];
const PLAIN = [
  ["kek_id", "which KEK"],
  ["generation", "the number of your key, in each ETag"],
  ["zero_knowledge", "the mode"],
];

/** Show the row. */
export function showStored({ user, row }) {
  const place = byId("stored");
  if (user === null) return;
  byId("server").classList.toggle("done", row !== null);
  if (row === null) {
    place.replaceChildren(make("p", { class: "none" }, `There is no row of ${named(user)} yet: unlock first.`));
    return;
  }
  place.replaceChildren(columns(row), others(row), readers(row), make("p", { class: "quiet" }, remark(row)));
}

function columns(row) {
  const body = COLUMNS.map(([name, what, who]) => {
    const value = row[name];
    return make("tr", { class: value === null ? "empty" : null },
      make("th", { scope: "row" }, make("code", {}, name)),
      make("td", {}, value === null ? make("i", {}, "empty") : make("code", {}, short(value, 10))),
      make("td", {}, what),
      make("td", {}, make("span", { class: "label" }, "Opened by: "), value === null ? "–" : who));
  });
  const plain = PLAIN.map(([name, what]) => make("tr", {},
    make("th", { scope: "row" }, make("code", {}, name)),
    make("td", {}, row[name] === null ? make("i", {}, "empty") : make("code", {}, String(row[name]))),
    make("td", {}, what), make("td", {}, "in clear")));
  return table("auth.encryption_vaults, your row", ["Column", "Stored", "What it is", "Who opens it"], body.concat(plain));
}

/** The columns that the table leaves out, as they are: nothing is kept back. */
function others(row) {
  const told = new Set([...COLUMNS, ...PLAIN].map(([name]) => name));
  const rest = Object.entries(row).filter(([name]) => !told.has(name));
  return make("details", {}, make("summary", {}, "Its other columns, nonces and counters"),
    make("p", {}, ...rest.flatMap(([name, value]) => [make("code", {}, `${name} = ${value ?? "empty"}`), " "])));
}

function readers(row) {
  const zero = row.zero_knowledge;
  const coded = row.recovery_wrapped_mk !== null;
  const lines = [
    ["You", true, zero ? "with your code" : "with your login"],
    ["The operator, who has database and KEK", !zero, zero ? "no wrap is left for the KEK" : "the KEK opens the wrap"],
    ["A thief of your login", !zero, zero ? "gets the wrap under your code" : "until the token ends"],
    ["A thief of the database", false, zero ? "has the wrap, and no code" : "has the wrap, and no KEK"],
    ["A thief of your code", zero ? "with a login" : coded ? "with a backup" : false,
      zero ? "or with a copy of this row" : coded ? "that has this row; a login alone does without it" : "there is none"],
  ];
  const body = lines.map(([who, can, why]) => make("tr", {},
    make("th", { scope: "row" }, who),
    make("td", {}, make("span", { class: `can ${can === true ? "yes" : can ? "some" : "no"}` },
      can === true ? "yes" : can || "no")),
    make("td", {}, why)));
  return table("Who can get at your key", ["Who", "Gets it", "Why"], body);
}

function remark(row) {
  const needs = "Whoever has the key needs your notes as well, and the server has none of them.";
  if (!row.zero_knowledge) return `${needs} In development the KEK is no secret, unless you set one.`;
  return `${needs} What the server had before you turned the mode on, its operator or an old backup may have kept: `
    + "the mode promises nothing about the past.";
}

function table(caption, heads, body) {
  return make("table", {}, make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, ...body));
}

/** Return what an action has changed in the row, as elements. */
export function changes(before, after) {
  const names = [...COLUMNS, ...PLAIN].map(([name]) => name);
  const changed = names.filter((name) => (before?.[name] ?? null) !== (after?.[name] ?? null));
  if (before === null || after === null || changed.length === 0) return [];
  const said = (value) => (value === null ? "empty" : short(String(value), 7));
  return [make("h3", {}, "What changed on the server"), make("dl", {}, ...changed.map((name) =>
    make("div", {}, make("dt", {}, name), make("dd", {},
      make("del", {}, said(before[name])), " → ", make("ins", {}, said(after[name]))))))];
}
