// One action at a time: what it asked is shown, what came of it is said, and all is looked at anew.

import { RecoveryCodeNeeded } from "/page/custody-client.js";
import { byId } from "/page/dom.js";
import { look, session } from "/page/session.js";
import { changes } from "/page/server.js";
import { shownIn } from "/page/wire.js";

const views = [];
let busy = false;

/** Have something shown anew after each action. */
export function view(one) {
  views.push(one);
}

/** Look at everything, and show it. */
export async function refresh() {
  await look();
  await show();
}

async function show() {
  for (const one of views) await one(session);
}

/** Do the work of a step, which returns what is to be said. */
export async function act(id, work) {
  if (busy) return;
  busy = true;
  const step = byId(id);
  step.setAttribute("aria-busy", "true");
  say(id, "");
  const before = session.row;
  let [said, level] = await outcome(() => shownIn(step, work));
  const [problem] = await outcome(look);
  if (problem !== undefined) [said, level] = [problem, "bad"];
  busy = false;
  step.removeAttribute("aria-busy");
  await show();
  // Last, so that what it speaks of is there.
  say(id, said, level);
  if (level === "good") step.classList.add("done");
  step.querySelector(".change")?.replaceChildren(...changes(before, session.row));
}

async function outcome(work) {
  try {
    return [await work(), "good"];
  } catch (error) {
    return [explained(error), error instanceof RecoveryCodeNeeded ? "note" : "bad"];
  }
}

/** Say something in a step. */
export function say(id, text, level = "good") {
  const said = byId(id).querySelector(".said");
  said.textContent = text;
  said.dataset.level = level;
}

const AGAIN = "Another device has rotated the key meanwhile: unlock again.";
const EXPLAINED = {
  StaleGeneration: AGAIN,
  OldKey: AGAIN,
  RecoveryCodeNeeded: "Zero-knowledge mode: the server gave the wrap that only your code opens.",
  WrongRecoveryCode: "This code does not open the key. Nothing was changed.",
  MalformedRecoveryCode: "A code has 16 groups of four, of the digits 0 to 9 and the letters A to F.",
  OperationError: "A note does not open: it was changed, or is under another key.",
  TypeError: "A note does not open: no key of this device is the one that it is under.",
  SignInAgain: "The token is not taken any more: sign in again.",
  StepUpRequired: "This needs a login of just now: sign in again.",
  Unavailable: "custody is busy, or waits for its key store. Try again in a moment.",
  Unreachable: "custody does not answer. Is make run still running?",
  RolledBack: "The server shows an older state than this device has seen: somebody put back an old database.",
};
const BY_CODE = {
  VAULT_NOT_INITIALISED: "This browser has seen a vault that is not there now: another data folder, perhaps.",
  ROTATION_PENDING: "A rotation is under way: finish it first.",
  ZK_ROTATE_FORBIDDEN: "In zero-knowledge mode there is no rotation: turn it off first.",
  MASTER_KEY_MISMATCH: "The key that was handed back is not this vault’s.",
  NOT_FOUND: "The operator does not allow this: CUSTODY_RESET is off.",
};

function explained(error) {
  const name = error instanceof DOMException ? error.name : error.constructor.name;
  // What these keys can't do any more, fresh ones can.
  if (EXPLAINED[name] === AGAIN) session.keys = null;
  return BY_CODE[error.code] ?? EXPLAINED[name] ?? `That did not work: ${name} ${error.code ?? ""}`;
}
