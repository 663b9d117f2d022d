import { describe, expect, it } from "vitest";
import type { RunEvent } from "../api/client";
import { marks, smoothed, wilson, type Point } from "./series";

const event = (type: string, payload: RunEvent["payload"], seq = 0): RunEvent => ({ seq, ts: 0, type, payload });

describe("smoothing", () => {
  it("leaves what is constant as it is, from the first step on", () => {
    const flat: Point[] = [[1, 3], [2, 3], [3, 3]];
    for (const [, y] of smoothed(flat, 0.9)) expect(y).toBeCloseTo(3);
  });
  it("changes nothing at weight 0", () => {
    const points: Point[] = [[1, 1], [2, 5]];
    expect(smoothed(points, 0)).toEqual(points);
  });
});

describe("Wilson's interval", () => {
  it("is that of the textbook", () => {
    const [low, high] = wilson(0.5, 100);
    expect(low).toBeCloseTo(0.4038, 3);
    expect(high).toBeCloseTo(0.5962, 3);
  });
  it("stays within 0 and 1 and says nothing of no problems", () => {
    expect(wilson(1, 5)[1]).toBe(1);
    expect(wilson(0, 5)[0]).toBeCloseTo(0);
    expect(wilson(0.3, 0)).toEqual([0, 1]);
  });
});

describe("marks", () => {
  it("stand at the step in progress, or at the one that an event names", () => {
    const found = marks([
      event("step.completed", { step: 3 }),
      event("run.status", { status: "paused" }),
      event("memory.edited", { step: 7, edits: 1, seq: 9 }),
      event("phase.succeeded", { step: 7, name: "train" }),
      event("phase.failed", { step: 7, name: "train", error: "no memory" }),
    ]);
    expect(found.map(({ step, what }) => [step, what])).toEqual([[4, "pause"], [7, "edit"], [7, "failure"]]);
    expect(found[1]?.text).toBe("1 memory edit by people took effect");
  });
});
