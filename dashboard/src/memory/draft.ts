// What a person typed and did not save yet, by memory: a page that is left, loaded again or signed out has it still.
export type Draft = {
  text: string;
  /** The version and the words that it began with. */
  version: number;
  began: string;
};

const PREFIX = "pmd-draft:";
const named = (run: string, item: string) => `${PREFIX}${run}/${item}`;

/** Storage of this browser tab; where the browser forbids it, nothing is kept. */
function drafts(): Storage | null {
  try {
    return window.sessionStorage;
  } catch {
    return null;
  }
}

export function draftOf(run: string, item: string, at: Storage | null = drafts()): Draft | null {
  try {
    const kept = JSON.parse(at?.getItem(named(run, item)) ?? "null") as Draft | null;
    return typeof kept?.text === "string" && typeof kept.began === "string" && Number.isInteger(kept.version) ? kept : null;
  } catch {
    return null; // not what this page wrote
  }
}

export function keepDraft(run: string, item: string, draft: Draft | null, at: Storage | null = drafts()): void {
  try {
    if (draft) at?.setItem(named(run, item), JSON.stringify(draft));
    else at?.removeItem(named(run, item));
  } catch {
    // the storage is full: the text stays in the page
  }
}

/** Forget all of them: the next person at this browser is another. */
export function forgetDrafts(at: Storage | null = drafts()): void {
  const keys = Array.from({ length: at?.length ?? 0 }, (_, n) => at?.key(n) ?? "");
  for (const key of keys.filter((each) => each.startsWith(PREFIX))) at?.removeItem(key);
}
