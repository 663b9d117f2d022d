import { describe, expect, it } from "vitest";
import { chord, CHORD_MS } from "./keys";

function pressing() {
  const went: string[] = [];
  let at = 0;
  const read = chord((key) => went.push(key), () => at);
  return {
    went,
    wait: (ms: number) => { at += ms; },
    /** Whether the view hears of the key. */
    reaches: (key: string, rest = {}) => !read({ key, ctrlKey: false, metaKey: false, altKey: false, target: null, ...rest }),
  };
}

describe("two keys in a row", () => {
  it("go somewhere, and no view hears of either", () => {
    const { went, reaches } = pressing();
    expect([reaches("g"), reaches("r")]).toEqual([false, false]);
    expect(went).toEqual(["r"]);
    expect(reaches("r")).toBe(true); // alone again: a view's
    expect(went).toEqual(["r"]);
  });
  it("keep a second key that leads nowhere from the view as well", () => {
    const { reaches } = pressing();
    reaches("g");
    expect(reaches("a")).toBe(false);
  });
  it("are forgotten after a while, and by Esc", () => {
    const { went, reaches, wait } = pressing();
    reaches("g");
    wait(CHORD_MS);
    expect(reaches("r")).toBe(true);
    reaches("g");
    expect(reaches("Escape")).toBe(true);
    expect(reaches("r")).toBe(true);
    expect(went).toEqual([]);
  });
  it("are not what is typed into a field, nor the browser's own keys", () => {
    const { went, reaches } = pressing();
    expect([reaches("g", { target: { tagName: "INPUT" } }), reaches("r")]).toEqual([true, true]);
    expect([reaches("g", { ctrlKey: true }), reaches("r")]).toEqual([true, true]);
    expect(went).toEqual([]);
  });
});
