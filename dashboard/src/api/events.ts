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
const KEPT = 20_000;

/** All events of a run so far, oldest first, and whether they still come. */
export function useRunEvents(run: string): { events: RunEvent[]; live: Live } {
  const client = useQueryClient();
  const [events, setEvents] = useState<RunEvent[]>([]);
  const [live, setLive] = useState<Live>("connecting");
  const buffer = useRef<RunEvent[]>([]);

  useEffect(() => {
    setEvents([]);
    setLive("connecting");
    buffer.current = [];
    let over = false;
    let due: ReturnType<typeof setTimeout> | undefined;
    let seq = 0;
    let replaying = true;
    let source: EventSource;
    let retry: ReturnType<typeof setTimeout> | undefined;
    const flush = () => {
      due = undefined;
      const fresh = buffer.current;
      buffer.current = [];
      setEvents((old) => [...old, ...fresh].slice(-KEPT));
      if (!replaying) void client.invalidateQueries({ queryKey: ["run", run] });
      replaying = false;
    };
    const heard = (message: MessageEvent<string>) => {
      if (message.type === "run.status") over = false;
      else if (message.type === "run.ended") over = true;
      const at = Number(message.lastEventId);
      if (at <= seq) return; // told before
      seq = at;
      buffer.current.push(JSON.parse(message.data) as RunEvent);
      due ??= setTimeout(flush, ASK_AGAIN_MS);
    };
    const open = () => {
      source = new EventSource(`/v1/runs/${encodeURIComponent(run)}/events?after=${seq}`);
      for (const type of TYPES) source.addEventListener(type, heard);
      source.onopen = () => setLive("live");
      source.onerror = () => {
        // The stream of a run that has ended ends; the browser would ask for it again and again.
        if (over) {
          source.close();
          setLive("ended");
          return;
        }
        setLive("lost");
        // After a refusal, as while the gateway starts, the browser gives up.
        if (source.readyState === EventSource.CLOSED) retry = setTimeout(open, REOPEN_MS);
      };
    };
    open();
    return () => {
      clearTimeout(retry);
      source.close();
      clearTimeout(due);
    };
  }, [run, client]);

  return { events, live };
}
