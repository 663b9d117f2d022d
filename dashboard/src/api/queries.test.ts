import { describe, expect, it } from "vitest";
import { errorTitle } from "../ui/Status";
import type { RolloutDetail, Run } from "./client";
import { everyRun, isWhole } from "./queries";

describe("all runs", () => {
  const pages: Record<string, string[]> = { "": ["e", "d"], d: ["c", "b"], b: ["a"] };
  const page = async (after = "") => {
    const ids = pages[after]!;
    const link = ids.at(-1) === "a" ? null : `</v1/runs?after=${ids.at(-1)}>; rel="next"`;
    return { runs: ids.map((id) => ({ id }) as Run), link };
  };
  it("are those of every page that a Link names", async () => {
    expect((await everyRun(page)).map(({ id }) => id)).toEqual(["e", "d", "c", "b", "a"]);
  });
});

describe("a rollout", () => {
  const of = (drawn: string, outcome: string | null, context: object | null, teacher_logprob: number | null = null) =>
    ({ drawn, row: { outcome }, context, tokens: [{ logprob: -1, teacher_logprob }] }) as unknown as RolloutDetail;
  it("is whole once it has its verdict, its context and its teacher's word, and is not asked for again", () => {
    expect(isWhole(of("train", "passed", {}, -0.5))).toBe(true);
    expect(isWhole(of("probe", "passed", {}))).toBe(true);
    expect(isWhole(of("evaluation", "failed", null))).toBe(true);
  });
  it("is asked for again while either is to come", () => {
    expect(isWhole(of("train", "passed", null, -0.5))).toBe(false);
    expect(isWhole(of("train", "passed", {}))).toBe(false);
    expect(isWhole(of("evaluation", null, null))).toBe(false);
    expect(isWhole(undefined)).toBe(false);
  });
});

describe("the heading of an error", () => {
  it("says that a run failed of those that did, and of no others", () => {
    const saying = ["queued", "running", "paused", "succeeded", "failed", "cancelled"].filter((status) => /fail/i.test(errorTitle(status)));
    expect(saying).toEqual(["failed"]);
  });
});
