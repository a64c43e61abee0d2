// What was sent and what came back, shown beside the step that asked.

import { make, short } from "/page/dom.js";

const BASE = "/api/v1/me/encryption-vault";
const SECRETS = new Set(["masterKey", "previousMasterKey", "token"]);
let list = null;

/** Show the requests of some work in a step, in place of those of before. */
export async function shownIn(step, work) {
  list = step.querySelector(".wire ol");
  list.replaceChildren();
  return work();
}

/** fetch, which shows what it does. Hand it to the client: `new Vault({ …, fetch: shownFetch })`. */
export async function shownFetch(url, init = {}) {
  const into = list;
  const began = performance.now();
  const response = await fetch(url, init);
  const took = Math.max(1, Math.round(performance.now() - began));
  const answer = await response.clone().json().catch(() => null);
  const { pathname, search } = new URL(url, location);
  into?.append(exchange(pathname + search, init, response, answer, took));
  return response;
}

function exchange(path, { method = "GET", headers = {}, body }, response, answer, took) {
  const base = path.startsWith(BASE) ? BASE : "";
  const good = response.ok ? "good" : "refused";
  return make("li", {},
    make("p", { class: "line" },
      make("b", { class: "method" }, method), " ",
      make("span", { class: "path" }, make("span", { class: "base" }, base), path.slice(base.length)),
    ),
    make("dl", { class: "sent" }, ...fields({
      Authorization: headers.Authorization, "If-Match": headers["If-Match"],
    }), ...fields(body ? JSON.parse(body) : {}, true)),
    make("p", { class: `line ${good}` },
      make("b", { class: "status" }, String(response.status)), ` ${phrase(response, answer)}`,
      make("span", { class: "took" }, `${took} ms`),
    ),
    make("dl", { class: "came" }, ...fields({ ETag: response.headers.get("ETag") }),
      ...fields(told(response, answer), true)),
  );
}

const PHRASES = { 200: "OK", 401: "Unauthorized", 404: "Not Found", 409: "Conflict" };
const phrase = ({ status }, answer) => answer?.code ?? PHRASES[status] ?? "";

function told(response, answer) {
  if (response.ok) return answer ?? {};
  return answer?.detail ? { detail: answer.detail } : {};
}

/** Return headers, or the members of a body: those are in quotes. */
function fields(object, isJson = false) {
  return Object.entries(object)
    .filter(([, value]) => value !== undefined && (isJson || value !== null))
    .map(([name, value]) => make("div", {},
      make("dt", {}, isJson ? `"${name}":` : `${name}:`),
      make("dd", {}, shown(name, value, isJson ? '"' : ""))));
}

function shown(name, value, quote) {
  if (name === "Authorization") return secret("the token", value, "Bearer ");
  if (SECRETS.has(name)) return secret(name === "token" ? "the token" : `the ${name}`, value);
  if (Array.isArray(value)) return `[ ${value.length} of them, below ]`;
  return typeof value === "string" ? quote + short(value, 18) + quote : JSON.stringify(value);
}

/** Hide a value behind a click: somebody may look over a shoulder. */
function secret(what, value, start = "") {
  const rest = value.slice(start.length);
  const text = make("span", {}, "••••••••");
  const button = make("button", {
    type: "button", class: "reveal", "aria-label": `Show ${what}`, "aria-pressed": "false",
    onclick: () => {
      const hide = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!hide));
      button.textContent = hide ? "show" : "hide";
      text.textContent = hide ? "••••••••" : rest;
    },
  }, "show");
  return make("span", {}, start, text, " ", button);
}
