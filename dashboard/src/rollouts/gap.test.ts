import { describe, expect, it } from "vitest";
import { gap, isTaught, type Token } from "./gap";

const token = (logprob: number, teacher_logprob: number | null): Token => ({ id: 1, text: "a", logprob, teacher_logprob });

describe("the gap between teacher and student", () => {
  it("is what the student is pulled by", () => {
    expect(gap(token(-2, -0.5))).toBe(1.5);
    expect(gap(token(-0.5, -2))).toBe(-1.5);
  });
  it("is nothing where no teacher taught", () => {
    expect(gap(token(-2, null))).toBe(0);
    expect([isTaught(null), isTaught([token(-2, null)]), isTaught([token(-2, -1)])]).toEqual([false, false, true]);
  });
});
