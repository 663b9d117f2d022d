// A small curve of a share by step: no axes, its ends in words for who can't see it.
import { percent } from "./format";
import { usePalette } from "./Status";

const W = 120, H = 28, PAD = 3;

export function Sparkline({ lines, steps }: { lines: { name: string; points: [number, number][] }[]; steps: number }) {
  const palette = usePalette();
  const shown = lines.filter((line) => line.points.length);
  if (!shown.length) return <span style={{ color: palette.soft }}>–</span>;
  const values = shown.flatMap((line) => line.points.map(([, y]) => y));
  const low = Math.min(...values), high = Math.max(...values);
  const room = Math.max(high - low, 0.05);
  const x = (step: number) => PAD + ((W - 2 * PAD) * step) / Math.max(steps, 1);
  const y = (value: number) => H - PAD - ((H - 2 * PAD) * (value - low)) / room;
  const label = shown.map((l) => `${l.name} ${percent(l.points[0]?.[1])} to ${percent(l.points.at(-1)?.[1])}`).join("; ");
  return (
    <svg width={W} height={H} viewBox={`0 0 ${W} ${H}`} role="img" aria-label={label}>
      <title>{label}</title>
      {shown.map((line, n) => {
        const last = line.points.at(-1)!;
        const color = palette.series[n % palette.series.length];
        return (
          <g key={line.name}>
            <polyline fill="none" stroke={color} strokeWidth={1.6} points={line.points.map(([s, v]) => `${x(s)},${y(v)}`).join(" ")} />
            <circle cx={x(last[0])} cy={y(last[1])} r={2.2} fill={color} />
          </g>
        );
      })}
    </svg>
  );
}
