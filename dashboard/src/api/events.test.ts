import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { RunEvent } from "./client";
import { Stream, type Live } from "./events";

/** The browser's end of a stream, which no server stands behind here. */
class Source {
  static CLOSED = 2;
  static opened: Source[] = [];
  readyState = 1;
  onopen?: () => void;
  onerror?: () => void;
  private readonly listeners = new Map<string, (message: unknown) => void>();
  constructor(readonly url: string) {
    Source.opened.push(this);
  }
  addEventListener(type: string, listener: (message: unknown) => void) {
    this.listeners.set(type, listener);
  }
  close() {
    this.readyState = Source.CLOSED;
  }
  send(seq: number, type: string) {
    this.listeners.get(type)?.({ type, lastEventId: String(seq), data: JSON.stringify({ seq, type, ts: 0, payload: {} }) });
  }
  breaks(readyState: number) {
    this.readyState = readyState;
    this.onerror?.();
  }
}

function listening() {
  const told: RunEvent[] = [];
  const live: Live[] = [];
  const stream = new Stream("r", { events: (fresh) => told.push(...fresh), live: (now) => live.push(now) });
  return { told, live, stream };
}

beforeEach(() => {
  Source.opened = [];
  vi.useFakeTimers();
  vi.stubGlobal("EventSource", Source);
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});
const newest = () => Source.opened.at(-1)!;

describe("a run's stream", () => {
  it("ends with the run, and goes on after what it told when the run is resumed", () => {
    const { told, live, stream } = listening();
    newest().send(1, "run.status");
    newest().send(2, "run.ended");
    newest().breaks(0);
    expect([live.at(-1), newest().readyState]).toEqual(["ended", Source.CLOSED]);
    stream.open();
    expect(newest().url).toMatch(/after=2$/);
    newest().send(2, "run.ended"); // told before
    newest().send(3, "run.status");
    newest().breaks(0); // the browser asks again by itself
    expect([live.at(-1), newest().readyState]).toEqual(["lost", 0]);
    vi.runAllTimers();
    expect(told.map(({ seq }) => seq)).toEqual([1, 2, 3]);
  });
  it("is opened again when the browser gave up", () => {
    listening();
    newest().send(4, "phase.submitted");
    newest().breaks(Source.CLOSED);
    vi.advanceTimersByTime(6000);
    expect(Source.opened.map(({ url }) => url.slice(-7))).toEqual(["after=0", "after=4"]);
  });
  it("is one at a time, and none once it is closed", () => {
    const { stream } = listening();
    newest().breaks(Source.CLOSED);
    stream.open();
    stream.close();
    vi.runAllTimers();
    expect(Source.opened.map(({ readyState }) => readyState)).toEqual([Source.CLOSED, Source.CLOSED]);
  });
});
