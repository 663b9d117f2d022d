// The rollouts of a step by problem, filtered; the attempts of the chosen one beside them.
import { ActionIcon, Group, NumberInput, Pagination, Select, Stack, Table, Text, TextInput, Title, Tooltip } from "@mantine/core";
import { useDebouncedValue, useMediaQuery } from "@mantine/hooks";
import { IconChevronLeft, IconChevronRight } from "@tabler/icons-react";
import { useMemo, useState } from "react";
import { useParams, useSearchParams } from "react-router-dom";
import type { Drawn, RolloutRow } from "../api/client";
import { useRollouts, type RolloutFilter } from "../api/queries";
import { Copy } from "../ui/Copy";
import { percent, plain } from "../ui/format";
import { useKeys } from "../ui/keys";
import { Empty, Told } from "../ui/states";
import { OUTCOMES, outcomeStyle, usePalette } from "../ui/Status";
import { Attempts, NoAttempt } from "./Attempts";

const LIMIT = 1000;
const GROUPS = 40;
const FIELDS = ["step", "split", "outcome", "problem_id", "min_reward", "max_reward", "min_tokens", "max_tokens", "q"] as const;
const NUMBERS = new Set<string>(["step", "min_reward", "max_reward", "min_tokens", "max_tokens"]);

function filterOf(params: URLSearchParams): RolloutFilter {
  const filter: Record<string, unknown> = { drawn: params.get("drawn") ?? "train", sort: params.get("sort") ?? "variance", limit: LIMIT };
  for (const name of FIELDS) {
    const value = params.get(name);
    if (value) filter[name] = NUMBERS.has(name) ? Number(value) : value;
  }
  return filter as RolloutFilter;
}

/** Rows by problem, in the order that problems first come in. */
export function grouped(rows: RolloutRow[]): [string, RolloutRow[]][] {
  const groups = new Map<string, RolloutRow[]>();
  for (const row of rows) {
    const of = groups.get(row.problem_id);
    if (of) of.push(row);
    else groups.set(row.problem_id, [row]);
  }
  return [...groups];
}

export default function RolloutsPage() {
  const { run = "" } = useParams();
  const [params, setParams] = useSearchParams();
  const [filter] = useDebouncedValue(useMemo(() => filterOf(params), [params]), 250);
  const rollouts = useRollouts(run, filter);
  const wide = useMediaQuery("(min-width: 62em)");
  const chosen = params.get("rollout");
  const put = (changes: Record<string, string | number | null>) => {
    setParams((old) => {
      const next = new URLSearchParams(old);
      for (const [name, value] of Object.entries(changes)) {
        if (value === null || value === "") next.delete(name);
        else next.set(name, String(value));
      }
      return next;
    }, { replace: true });
  };
  const groups = useMemo(() => grouped(rollouts.data?.rollouts ?? []), [rollouts.data]);
  const flat = useMemo(() => groups.flatMap(([, rows]) => rows), [groups]);
  const steps = rollouts.data?.steps ?? [];
  const step = rollouts.data?.step ?? 0;
  const go = (by: number) => {
    const next = steps[steps.indexOf(step) + by];
    if (next !== undefined) put({ step: next, rollout: null });
  };
  const walk = (by: number) => {
    const at = flat.findIndex((row) => row.id === chosen);
    const next = flat[Math.min(Math.max(at + by, 0), flat.length - 1)];
    if (next) put({ rollout: next.id });
  };
  useKeys([["j", () => walk(1)], ["k", () => walk(-1)], ["ArrowLeft", () => go(-1)], ["ArrowRight", () => go(1)], ["Escape", () => put({ rollout: null })]]);
  const group = groups.find(([, rows]) => rows.some((row) => row.id === chosen));
  const drawn: Drawn = filter.drawn;
  const query = new URLSearchParams(Object.entries({ ...filter, step }).map(([name, value]) => [name, String(value)]));
  const attempts = group && chosen ? (
    <Attempts run={run} step={step} drawn={drawn} problem={group[0]} rows={group[1]} chosen={chosen} choose={(id) => put({ rollout: id })} />
  ) : null;
  return (
    <Stack>
      <Group align="flex-end" gap="xs">
        <Select label="Drawn for" data={[{ value: "train", label: "training" }, { value: "probe", label: "probe (with context)" }, { value: "evaluation", label: "evaluation" }]} value={drawn} allowDeselect={false} onChange={(value) => put({ drawn: value, step: null, rollout: null })} w={170} />
        <Group gap={4} align="flex-end" wrap="nowrap">
          <Tooltip label="Step before (←)"><ActionIcon variant="default" size={36} aria-label="Step before" disabled={steps.indexOf(step) <= 0} onClick={() => go(-1)}><IconChevronLeft size={18} aria-hidden /></ActionIcon></Tooltip>
          <Select label="Step" data={steps.map(String)} value={steps.length ? String(step) : null} searchable allowDeselect={false} onChange={(value) => put({ step: value, rollout: null })} w={86} />
          <Tooltip label="Step after (→)"><ActionIcon variant="default" size={36} aria-label="Step after" disabled={steps.indexOf(step) >= steps.length - 1} onClick={() => go(1)}><IconChevronRight size={18} aria-hidden /></ActionIcon></Tooltip>
        </Group>
        <Select label="Split" placeholder="any" data={["train", "test", "unseen"]} value={params.get("split")} clearable onChange={(value) => put({ split: value })} w={110} clearButtonProps={{ "aria-label": "Any split" }} />
        <Select label="Outcome" placeholder="any" data={OUTCOMES.map((value) => ({ value, label: plain(value) }))} value={params.get("outcome")} clearable onChange={(value) => put({ outcome: value })} w={130} clearButtonProps={{ "aria-label": "Any outcome" }} />
        <NumberInput label="Reward from" placeholder="0" value={params.get("min_reward") ?? ""} min={0} max={1} step={0.1} onChange={(value) => put({ min_reward: value })} w={104} />
        <NumberInput label="to" placeholder="1" value={params.get("max_reward") ?? ""} min={0} max={1} step={0.1} onChange={(value) => put({ max_reward: value })} w={84} />
        <NumberInput label="Tokens from" placeholder="0" value={params.get("min_tokens") ?? ""} min={0} onChange={(value) => put({ min_tokens: value })} w={104} />
        <TextInput label="Text holds" value={params.get("q") ?? ""} onChange={(e) => put({ q: e.currentTarget.value })} w={150} />
        <Select label="Order" data={[{ value: "variance", label: "differ most" }, { value: "problem", label: "problem" }, { value: "reward", label: "reward" }, { value: "tokens", label: "length" }]} value={filter.sort} allowDeselect={false} onChange={(value) => put({ sort: value })} w={130} />
        <Copy path={`/v1/runs/${run}/rollouts?${query}`} rows="rollouts" />
      </Group>
      <Told of={rollouts}>
        {(data) => !data.steps.length ? <Empty title="No rollouts yet">{drawn === "train" ? "Step 1 draws the first ones, after the base model was scored." : "The recipe draws none of this kind, or not yet."}</Empty>
          : !data.total ? <Empty title="No rollout of this step matches">Loosen a filter, or choose another step.</Empty>
            : <div style={{ display: "grid", gridTemplateColumns: wide ? "minmax(360px, 5fr) minmax(0, 7fr)" : "minmax(0, 1fr)", gap: 16, alignItems: "start" }}>
                {!wide && attempts}
                <Groups groups={groups} chosen={chosen} total={data.total} shown={data.rollouts.length} choose={(id) => put({ rollout: id })} />
                {wide && <div className="sticky" tabIndex={0} role="group" aria-label="The chosen problem">{attempts ?? <NoAttempt drawn={drawn} />}</div>}
              </div>}
      </Told>
    </Stack>
  );
}

type GroupsProps = { groups: [string, RolloutRow[]][]; chosen: string | null; total: number; shown: number; choose: (id: string) => void };

function Groups({ groups, chosen, total, shown, choose }: GroupsProps) {
  const { series } = usePalette();
  const [page, setPage] = useState(1);
  const pages = Math.ceil(groups.length / GROUPS);
  const at = Math.min(page, pages);
  return (
    <div className="card" style={{ overflow: "hidden" }}>
      <Table verticalSpacing={6}>
        <Table.Thead><Table.Tr><Table.Th><Title order={2} fz="sm">{groups.length} problems, {total} attempts</Title></Table.Th><Table.Th ta="right" className="nowrap">passed</Table.Th></Table.Tr></Table.Thead>
        <Table.Tbody>
          {groups.slice((at - 1) * GROUPS, at * GROUPS).map(([problem, rows]) => (
            <Table.Tr key={problem}>
              <Table.Td>
                <Text size="sm" fw={600}>{problem}</Text>
                <Text size="xs" c="dimmed" lineClamp={1}>{rows[0]!.excerpt}</Text>
                <Group gap={4} mt={4}>
                  {rows.map((row) => {
                    const { sign, style } = outcomeStyle(row.outcome, series);
                    const told = `attempt ${row.sample}: ${row.outcome ? plain(row.outcome) : "not judged"}, ${row.tokens} tokens`;
                    return <button key={row.id} type="button" className="cell" style={{ ...style, cursor: "pointer", width: 24, height: 24 }} data-on={row.id === chosen || undefined} aria-pressed={row.id === chosen} aria-label={`${problem}, ${told}`} title={told} onClick={() => choose(row.id)}>{sign}</button>;
                  })}
                </Group>
              </Table.Td>
              <Table.Td ta="right" className="num nowrap" style={{ verticalAlign: "top" }}>
                {rows[0]!.group_passed} of {rows[0]!.group_judged}
                <Text size="xs" c="dimmed">{percent(rows[0]!.group_judged ? rows[0]!.group_passed / rows[0]!.group_judged : null)}</Text>
              </Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
      <Group justify="space-between" p="xs">
        {pages > 1 && <Pagination size="sm" total={pages} value={at} onChange={setPage} getControlProps={(control) => ({ "aria-label": `${control} page of problems` })} />}
        {shown < total && <Text size="xs" c="dimmed">the first {shown} of {total} attempts; filter to see others</Text>}
      </Group>
    </div>
  );
}
