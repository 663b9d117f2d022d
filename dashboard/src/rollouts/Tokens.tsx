// A completion token by token: what the teacher would change of it, or how unlikely its policy held it.
import { SegmentedControl, Text } from "@mantine/core";
import { useState } from "react";
import type { RolloutDetail } from "../api/client";
import { usePalette } from "../ui/Status";
import { gap, isTaught, type Token } from "./gap";

const FULL_NATS = 3;
const MARKED_NATS = 1; // from here on a line below says it too, for those who see no colour
const STRONGEST = 45; // percent of colour; with more the text on it is hard to read in the dark

const nats = (value: number) => `${value < 0 ? "−" : ""}${Math.abs(value).toFixed(2)}`;
const percent = (logprob: number) => `${(100 * Math.exp(logprob)).toFixed(1)} %`;
const told = (token: Token) =>
  token.teacher_logprob == null
    ? `the policy gave it ${percent(token.logprob)} (${nats(token.logprob)} nats)`
    : `the policy gave it ${percent(token.logprob)}, the teacher ${percent(token.teacher_logprob)} (${gap(token) < 0 ? "" : "+"}${nats(gap(token))} nats)`;

export function Tokens({ tokens }: { tokens: NonNullable<RolloutDetail["tokens"]> }) {
  const { series } = usePalette();
  const taught = isTaught(tokens);
  const [chosen, setChosen] = useState<"teacher" | "policy">("teacher");
  const [at, setAt] = useState<number | null>(null);
  const by = taught ? chosen : "policy";
  const look = (token: Token) => {
    const value = by === "teacher" ? gap(token) : token.logprob;
    const share = Math.min(1, Math.abs(value) / FULL_NATS);
    const color = series[value < 0 ? 1 : 0]!;
    return {
      background: share > 0.02 ? `color-mix(in srgb, ${color} ${Math.round(STRONGEST * share)}%, transparent)` : undefined,
      borderBottom: by === "teacher" && Math.abs(value) >= MARKED_NATS ? `2px ${value < 0 ? "dotted" : "solid"} ${color}` : undefined,
    };
  };
  const rest = by === "teacher"
    ? `Blue, and a line: the teacher, who reads the context below, holds the token likelier than the policy did. Orange, and dots: less likely. This is what the step taught (full at ${FULL_NATS} nats).`
    : `The stronger the colour, the less likely the policy held the token that it drew (full at ${FULL_NATS} nats).`;
  return (
    <div>
      {taught && (
        <SegmentedControl size="xs" mb={8} aria-label="Colour tokens by" value={by} onChange={(value) => setChosen(value as "teacher")}
          data={[{ value: "teacher", label: "What the teacher changes" }, { value: "policy", label: "How unlikely" }]} />
      )}
      <pre className="text" aria-label="The completion, token by token">
        {tokens.map((token, n) => (
          <span key={n} className="token" style={look(token)} onMouseEnter={() => setAt(n)} onMouseLeave={() => setAt(null)} title={`token ${n} (id ${token.id}): ${told(token)}`}>
            {token.text.replaceAll("\n", "↵\n") || "·"}
          </span>
        ))}
      </pre>
      <Text size="xs" c="dimmed" mt={6} className="num" style={{ minHeight: "2.6em" }}>
        {at == null ? rest : `token ${at}: ${told(tokens[at]!)}`}
      </Text>
    </div>
  );
}
