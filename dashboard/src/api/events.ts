// A run's log as it grows: one stream replays it, then tells what happens, and what is shown is asked for again.
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import type { RunEvent } from "./client";

export type Live = "connecting" | "live" | "ended" | "lost";

const TYPES = [
  "run.created", "run.desired", "run.status", "run.waiting", "run.waited", "run.ended", "run.alarm",
  "problems.left_out", "problems.too_long", "phase.submitted", "phase.succeeded", "phase.failed",
  "memory.edited", "memory.deleted", "step.completed",
];
const ASK_AGAIN_MS = 700;
const REOPEN_MS = 5000;
const RESUMED_MS = 1000;
const KEPT = 20_000;

export type Heard = { events: (fresh: RunEvent[], replayed: boolean) => void; live: (live: Live) => void };

/** A run's stream of events; each is told once, however often it is opened. */
export class Stream {
  private source: EventSource | undefined;
  private retry: ReturnType<typeof setTimeout> | undefined;
  private due: ReturnType<typeof setTimeout> | undefined;
  private buffer: RunEvent[] = [];
  private seq = 0;
  private over = false;
  private replaying = true;

  constructor(private readonly run: string, private readonly heard: Heard) {
    this.open();
  }

  /** Ask for what came after all that was told; also of a run that had ended, and was resumed. */
  open(): void {
    this.hangUp();
    const source = new EventSource(`/v1/runs/${encodeURIComponent(this.run)}/events?after=${this.seq}`);
    this.source = source;
    for (const type of TYPES) source.addEventListener(type, (message) => this.hear(message as MessageEvent<string>));
    source.onopen = () => this.heard.live("live");
    source.onerror = () => this.broke(source);
  }

  close(): void {
    this.hangUp();
    clearTimeout(this.due);
  }

  private hangUp(): void {
    clearTimeout(this.retry);
    this.source?.close();
  }

  private broke(source: EventSource): void {
    // The stream of a run that has ended ends; the browser would ask for it again and again.
    if (this.over) {
      source.close();
      this.heard.live("ended");
      return;
    }
    this.heard.live("lost");
    // After a refusal, as while the gateway starts, the browser gives up.
    if (source.readyState === EventSource.CLOSED) this.retry = setTimeout(() => this.open(), REOPEN_MS);
  }

  private hear(message: MessageEvent<string>): void {
    if (message.type === "run.status") this.over = false;
    else if (message.type === "run.ended") this.over = true;
    const at = Number(message.lastEventId);
    if (at <= this.seq) return; // told before
    this.seq = at;
    this.buffer.push(JSON.parse(message.data) as RunEvent);
    this.due ??= setTimeout(() => this.flush(), ASK_AGAIN_MS);
  }

  private flush(): void {
    this.due = undefined;
    const fresh = this.buffer;
    this.buffer = [];
    this.heard.events(fresh, this.replaying);
    this.replaying = false;
  }
}

/** All events of a run so far, oldest first, and whether they still come. `over`: the run has ended, as far as is known. */
export function useRunEvents(run: string, over: boolean): { events: RunEvent[]; live: Live } {
  const client = useQueryClient();
  const [events, setEvents] = useState<RunEvent[]>([]);
  const [live, setLive] = useState<Live>("connecting");
  const stream = useRef<Stream>(undefined);

  useEffect(() => {
    setEvents([]);
    setLive("connecting");
    const made = new Stream(run, {
      live: setLive,
      events: (fresh, replayed) => {
        setEvents((old) => [...old, ...fresh].slice(-KEPT));
        if (!replayed) void client.invalidateQueries({ queryKey: ["run", run] });
      },
    });
    stream.current = made;
    return () => made.close();
  }, [run, client]);

  useEffect(() => {
    if (live !== "ended" || over) return;
    // Somebody resumed it; or it is not known yet that it ended, and the stream ends again.
    const soon = setTimeout(() => {
      setLive("connecting");
      stream.current?.open();
    }, RESUMED_MS);
    return () => clearTimeout(soon);
  }, [live, over]);

  return { events, live };
}
