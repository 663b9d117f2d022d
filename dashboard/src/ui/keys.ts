// Keys: two in a row for the whole page, single ones for a view.
import { useHotkeys, type HotkeyItem } from "@mantine/hooks";
import { useEffect, useRef } from "react";

export const CHORD_MS = 2000;
const TYPED_IN = new Set(["INPUT", "TEXTAREA", "SELECT"]);

type Pressed = Pick<KeyboardEvent, "key" | "ctrlKey" | "metaKey" | "altKey" | "target">;

function types(target: EventTarget | null): boolean {
  const at = target as Partial<HTMLElement> | null;
  return TYPED_IN.has(at?.tagName ?? "") || Boolean(at?.isContentEditable);
}

/**
 * Reads keys one by one; of `g` and the character after it, the second is given to `go`. True for both of them: they are
 * not for the view, where the second one alone may decide something (`r` declines a proposal).
 */
export function chord(go: (key: string) => void, now: () => number = Date.now): (pressed: Pressed) => boolean {
  let began = -Infinity;
  return ({ key, ctrlKey, metaKey, altKey, target }) => {
    const follows = now() - began < CHORD_MS;
    began = -Infinity;
    if (key.length !== 1 || ctrlKey || metaKey || altKey || types(target)) return false;
    if (follows) go(key);
    else if (key === "g") began = now();
    else return false;
    return true;
  };
}

export function useChord(go: (key: string) => void): void {
  const newest = useRef(go);
  newest.current = go;
  useEffect(() => {
    const read = chord((key) => newest.current(key));
    const heard = (event: KeyboardEvent) => {
      if (!read(event)) return;
      event.preventDefault();
      event.stopImmediatePropagation();
    };
    window.addEventListener("keydown", heard, true); // before any view hears of it
    return () => window.removeEventListener("keydown", heard, true);
  }, []);
}

/** Keys of a view. A dialog over it has the keyboard to itself. */
export function useKeys(keys: [string, (event: KeyboardEvent) => void][]): void {
  useHotkeys(keys.map(([key, does]): HotkeyItem => [key, (event) => {
    if (!document.querySelector('[role="dialog"]')) does(event);
  }]));
}
