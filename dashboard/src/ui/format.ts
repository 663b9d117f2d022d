// Numbers and times for people.
export const percent = (value: number | null | undefined, digits = 0) =>
  value == null ? "–" : `${(100 * value).toFixed(digits)}\u202f%`;

export function short(value: number | null | undefined): string {
  if (value == null || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size < 1e-12) return "0"; // what rounding leaves of nothing
  if (size >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(0)}k`;
  if (size >= 100) return value.toFixed(0);
  if (size >= 1) return String(Number(value.toFixed(2)));
  if (size >= 1e-3) return String(Number(value.toFixed(4)));
  return value.toExponential(1);
}

export function bytes(value: number | null | undefined): string {
  if (value == null) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  let left = value;
  while (left >= 1000 && at < units.length - 1) {
    left /= 1000;
    at += 1;
  }
  return `${left < 10 && at ? left.toFixed(1) : left.toFixed(0)}\u202f${units[at]}`;
}

export function duration(seconds: number | null | undefined): string {
  if (seconds == null) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)}\u202fs`;
  if (seconds < 90) return `${seconds.toFixed(0)}\u202fs`;
  if (seconds < 5400) return `${(seconds / 60).toFixed(0)}\u202fmin`;
  if (seconds < 129_600) return `${(seconds / 3600).toFixed(1)}\u202fh`;
  return `${(seconds / 86_400).toFixed(1)}\u202fd`;
}

export const ago = (unix: number, now = Date.now() / 1000) => `${duration(Math.max(0, now - unix))} ago`;

export const clock = (unix: number) =>
  new Date(1000 * unix).toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" });

/** A word of the API as people read it. */
export const plain = (word: string) => word.replaceAll("_", " ");
