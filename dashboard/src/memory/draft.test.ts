import { describe, expect, it } from "vitest";
import { draftOf, forgetDrafts, keepDraft } from "./draft";

function storage(): Storage {
  const kept = new Map<string, string>();
  return {
    get length() { return kept.size; },
    key: (n) => [...kept.keys()][n] ?? null,
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => void kept.set(key, value),
    removeItem: (key) => void kept.delete(key),
    clear: () => kept.clear(),
  };
}
const draft = { text: "Ask twice.", version: 3, began: "Ask once." };

describe("a draft", () => {
  it("is there again until it is saved or discarded, for its memory alone", () => {
    const at = storage();
    keepDraft("r", "i", draft, at);
    expect(draftOf("r", "i", at)).toEqual(draft);
    expect(draftOf("r", "other", at)).toBeNull();
    keepDraft("r", "i", null, at);
    expect(draftOf("r", "i", at)).toBeNull();
  });
  it("is forgotten by who signs out; what others keep there is not", () => {
    const at = storage();
    for (const item of ["a", "b"]) keepDraft("r", item, draft, at);
    at.setItem("pmd-colours", "dark");
    forgetDrafts(at);
    expect([draftOf("r", "a", at), draftOf("r", "b", at), at.getItem("pmd-colours")]).toEqual([null, null, "dark"]);
  });
  it("that can't be read is none", () => {
    const at = storage();
    for (const text of ["{", "7", '{"text":1}', '{"text":"a"}']) {
      at.setItem("pmd-draft:r/i", text);
      expect(draftOf("r", "i", at)).toBeNull();
    }
    expect(draftOf("r", "i", null)).toBeNull();
  });
});
