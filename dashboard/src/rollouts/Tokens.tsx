// A completion token by token, each coloured by how unlikely its policy held it.
import { Text } from "@mantine/core";
import { useState } from "react";
import type { RolloutDetail } from "../api/client";
import { usePalette } from "../ui/Status";

const FULL_NATS = 3;
const STRONGEST = 45; // percent of colour; with more the text on it is hard to read in the dark

export function Tokens({ tokens }: { tokens: NonNullable<RolloutDetail["tokens"]> }) {
  const palette = usePalette();
  const [at, setAt] = useState<number | null>(null);
  const told = at == null ? null : tokens[at];
  return (
    <div>
      <pre className="text" aria-label="The completion, token by token">
        {tokens.map((token, n) => {
          const share = Math.min(1, Math.max(0, -token.logprob) / FULL_NATS);
          const background = share > 0.02 ? `color-mix(in srgb, ${palette.series[1]} ${Math.round(STRONGEST * share)}%, transparent)` : undefined;
          return (
            <span key={n} className="token" style={{ background }} onMouseEnter={() => setAt(n)} onMouseLeave={() => setAt(null)}
              title={`token ${n} (id ${token.id}): ${token.logprob.toFixed(3)} nats, ${(100 * Math.exp(token.logprob)).toFixed(1)} %`}>
              {token.text.replaceAll("\n", "↵\n") || "·"}
            </span>
          );
        })}
      </pre>
      <Text size="xs" c="dimmed" mt={6} className="num" style={{ minHeight: "2.6em" }}>
        {told ? `token ${at}: ${told.logprob.toFixed(3)} nats, the policy gave it ${(100 * Math.exp(told.logprob)).toFixed(1)} %` : `The stronger the colour, the less likely the policy held the token that it drew (full at ${FULL_NATS} nats).`}
      </Text>
    </div>
  );
}
