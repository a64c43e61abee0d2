// As docs/how-to/browser-client.md shows it, to the letter.
import { rewrap } from "./records.js";

export const reencrypt = (store, user) => async (keys) => {
  for (const record of await store.all()) {
    // False is as good: a newer version is there, and it is under the live key.
    await store.put(await rewrap(keys, user, record));
  }
};
