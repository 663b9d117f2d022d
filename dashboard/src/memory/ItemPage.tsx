// One memory: what it says, how it came, where it was shown, what it did to the reward; and what people can do to it.
import { Alert, Badge, Button, Card, Group, Select, SimpleGrid, Stack, Table, Text, Textarea, Title } from "@mantine/core";
import { useQueryClient } from "@tanstack/react-query";
import { diffWordsWithSpace } from "diff";
import { useEffect, useState } from "react";
import { Link, useParams } from "react-router-dom";
import { api, told, type Item, type Schemas } from "../api/client";
import { Copy } from "../ui/Copy";
import { percent } from "../ui/format";
import { Told } from "../ui/states";
import { draftOf, keepDraft } from "./draft";
import { seen, useAct, useItem, useProvenance, useUtility } from "./queries";

type Detail = Schemas["ItemDetail"];

export default function ItemPage() {
  const { run = "", item = "" } = useParams();
  const found = useItem(run, item);
  return <Told of={found}>{(data) => <Shown key={item} run={run} data={data} />}</Told>;
}

function Shown({ run, data }: { run: string; data: Detail }) {
  const { item } = data;
  return (
    <Stack>
      <Group justify="space-between" align="flex-start">
        <div>
          <Title order={2}>{item.kind}{item.problem_id ? <> of <Link to={`/runs/${run}/problems/${item.problem_id}`}>{item.problem_id}</Link></> : item.topic ? ` about ${item.topic}` : ""}</Title>
          <Group gap={6} mt={4}>
            <Badge variant="default" tt="none">{item.level}</Badge><Badge variant="default" tt="none">{item.status}</Badge>
            {item.pinned && <Badge variant="default" tt="none">pinned</Badge>}{item.edited && <Badge variant="default" tt="none">edited by a person</Badge>}
            <Text size="sm" c="dimmed">version {item.version}, step {item.step}, {item.id}</Text>
          </Group>
        </div>
        <Copy path={`/v1/runs/${run}/memory/${item.id}`} rows="history" />
      </Group>
      {item.note && <Alert variant="outline" color="orange" title={item.status === "quarantined" ? "Why it is kept aside" : "Note"} styles={{ title: { color: "var(--mantine-color-text)" } }}>{item.note}</Alert>}
      <SimpleGrid cols={{ base: 1, md: 2 }}>
        <Stack>{item.level === "experience" ? <Card className="card" withBorder><pre className="text">{item.text}</pre></Card> : <Editor run={run} data={data} />}<History data={data} /></Stack>
        <Stack>{item.level !== "experience" && <Effect run={run} item={item.id} />}<Origins run={run} item={item.id} /></Stack>
      </SimpleGrid>
    </Stack>
  );
}

function Editor({ run, data }: { run: string; data: Detail }) {
  const { item } = data;
  const [kept] = useState(() => draftOf(run, item.id));
  const [base, setBase] = useState<{ version: number; text: string }>(kept ? { version: kept.version, text: kept.began } : item);
  const [text, setText] = useState(kept?.text ?? item.text);
  const changed = text !== base.text;
  const moved = item.version > base.version;
  useEffect(() => {
    if (!moved || (changed && item.text !== base.text)) return;
    setBase(item); // nobody changed its words, or nothing is lost
    if (!changed) setText(item.text);
  }, [item, base, moved, changed]);
  useEffect(() => keepDraft(run, item.id, changed ? { text, version: base.version, began: base.text } : null), [run, item.id, changed, text, base]);
  const path = { run, item: item.id };
  const client = useQueryClient();
  /** Go on from what was made: what is done next names its version, whether it was asked for again by then or not. */
  const keep = (made: Item) => client.setQueryData<Detail>(["run", run, "memory", "item", item.id], (old) => old && { ...old, item: made });
  const save = useAct<string>(run, async (sent) => {
    const made = await told(api.PATCH("/v1/runs/{run}/memory/{item}", { params: { path, header: seen(base.version) }, body: { text: sent, also: [] } }));
    setBase(made);
    setText((now) => (now === sent ? made.text : now)); // what was typed meanwhile stays
    keep(made);
  }, () => "Saved. It takes effect with the next step that reads the memory; the curves mark it.");
  const act = useAct<"pin" | "unpin" | "ban" | "restore">(run, async (verb) => {
    const asked = { params: { path, header: seen(item.version) }, body: { reason: "" } };
    if (verb === "pin") keep(await told(api.POST("/v1/runs/{run}/memory/{item}:pin", asked)));
    else if (verb === "unpin") keep(await told(api.POST("/v1/runs/{run}/memory/{item}:unpin", asked)));
    else if (verb === "ban") keep(await told(api.POST("/v1/runs/{run}/memory/{item}:ban", asked)));
    else keep(await told(api.POST("/v1/runs/{run}/memory/{item}:restore", asked)));
  }, (verb) => ({ pin: "Pinned: machines leave it as it is.", unpin: "Given back to the machines.", ban: "Banned: its text is never shown again.", restore: "Active again." })[verb]);
  const on = item.status === "active";
  return (
    <Card className="card" withBorder>
      <Stack gap="sm">
        <Textarea label="What it says" value={text} onChange={(e) => setText(e.currentTarget.value)} autosize minRows={3} maxRows={18} styles={{ input: { fontFamily: "var(--mantine-font-family-monospace)", fontSize: "0.85rem" } }} />
        {moved && changed && (
          <Alert variant="outline" color="orange" title={`It is at version ${item.version} by now; you began with ${base.version}`} styles={{ title: { color: "var(--mantine-color-text)" } }}>
            <Text size="sm" mb="xs">It says now: <Words before={base.text} after={item.text} /></Text>
            <Group gap="xs"><Button size="xs" variant="default" onClick={() => setBase(item)}>Keep my text, over this version</Button><Button size="xs" variant="default" onClick={() => { setBase(item); setText(item.text); }}>Take theirs</Button></Group>
          </Alert>
        )}
        <Group gap="xs">
          <Button disabled={!changed || !text.trim() || moved} loading={save.isPending} onClick={() => save.mutate(text)}>Save</Button>
          {changed && <Button variant="default" onClick={() => setText(base.text)}>Discard</Button>}
          {!item.pinned && on && <Button variant="default" loading={act.isPending} onClick={() => act.mutate("pin")}>Pin</Button>}
          {(item.pinned || item.edited) && <Button variant="default" loading={act.isPending} onClick={() => act.mutate("unpin")}>Unpin</Button>}
          {on ? <Button variant="default" loading={act.isPending} onClick={() => act.mutate("ban")}>Ban</Button> : <Button variant="default" loading={act.isPending} onClick={() => act.mutate("restore")}>Restore</Button>}
        </Group>
        <Text size="xs" c="dimmed">From an edit on the machine proposes changes and makes none. <i>Undo</i> is on the page of the memory.</Text>
      </Stack>
    </Card>
  );
}

/** What changed, word by word. */
export function Words({ before, after }: { before: string; after: string }) {
  return (
    <span style={{ whiteSpace: "pre-wrap" }}>{diffWordsWithSpace(before, after).map((part, n) => part.added ? <ins key={n} className="ins">{part.value}</ins> : part.removed ? <del key={n} className="del">{part.value}</del> : <span key={n}>{part.value}</span>)}</span>
  );
}

function History({ data }: { data: Detail }) {
  const versions = data.history;
  const newest = versions.at(-1)?.version ?? 1;
  const [chosen, setChosen] = useState<{ before?: string; after?: string }>({});
  const after = versions.find((v) => String(v.version) === (chosen.after ?? String(newest)));
  const before = versions.find((v) => String(v.version) === (chosen.before ?? String(newest - 1)));
  const names = versions.map((v) => String(v.version));
  return (
    <Card className="card" withBorder>
      <Title order={3} mb="xs">History</Title>
      <Table><Table.Thead><Table.Tr><Table.Th>v</Table.Th><Table.Th>step</Table.Th><Table.Th>by</Table.Th><Table.Th>status</Table.Th></Table.Tr></Table.Thead>
        <Table.Tbody>{[...versions].reverse().slice(0, 12).map((v) => <Table.Tr key={v.version} className="num"><Table.Td>{v.version}</Table.Td><Table.Td>{v.step}</Table.Td><Table.Td>{v.actor}</Table.Td><Table.Td>{v.status}{v.pinned ? ", pinned" : ""}{v.edited ? ", edited" : ""}</Table.Td></Table.Tr>)}</Table.Tbody></Table>
      {versions.length > 12 && <Text size="xs" c="dimmed">and {versions.length - 12} older ones</Text>}
      {versions.length > 1 && (
        <Stack gap="xs" mt="sm">
          <Group gap="xs" align="flex-end"><Select label="From version" data={names} value={before ? String(before.version) : null} onChange={(v) => setChosen({ ...chosen, before: v ?? undefined })} w={110} /><Select label="to" data={names} value={after ? String(after.version) : null} onChange={(v) => setChosen({ ...chosen, after: v ?? undefined })} w={110} /></Group>
          {before && after && <Text size="sm" className="text">{before.text === after.text ? "The same words." : <Words before={before.text} after={after.text} />}</Text>}
        </Stack>
      )}
    </Card>
  );
}

function Effect({ run, item }: { run: string; item: string }) {
  const found = useUtility(run, item);
  return (
    <Card className="card" withBorder>
      <Title order={3} mb="xs">What it did to the reward</Title>
      <Told of={found} rows={2}>{(u) => {
        const [low, high] = u.interval ?? [];
        const measured = low !== undefined && high !== undefined;
        return <>
          <Text size="sm">{u.lift == null ? "Not measured yet: chance must have shown it and held it out." : <>Shown, reward is <b className="num">{u.lift >= 0 ? "+" : ""}{u.lift.toFixed(3)}</b>{measured ? <span className="num"> (95 %: {low.toFixed(3)} to {high.toFixed(3)})</span> : null} against held out.</>}</Text>
          {measured && <Whisker low={low} high={high} at={u.lift ?? 0} />}
          <dl className="facts num" style={{ marginTop: 8, fontSize: "0.88rem" }}><dt>shown</dt><dd>{u.shown} times{u.reward != null ? `, reward ${u.reward.toFixed(3)}` : ""}</dd><dt>held out by chance</dt><dd>{u.held_out} times{u.reward_held_out != null ? `, reward ${u.reward_held_out.toFixed(3)}` : ""}</dd>{u.reward_without_memory != null && <><dt>without any memory</dt><dd>reward {u.reward_without_memory.toFixed(3)}</dd></>}<dt>belief that it helps</dt><dd>{percent(u.belief)}</dd></dl>
        </>;
      }}</Told>
    </Card>
  );
}

function Whisker({ low, high, at }: { low: number; high: number; at: number }) {
  const reach = Math.max(Math.abs(low), Math.abs(high), 0.1);
  const x = (v: number) => 150 + (140 * v) / reach;
  return (
    <svg viewBox="0 0 300 34" width="100%" height={34} role="img" aria-label={`Effect ${at.toFixed(3)}, 95 percent interval ${low.toFixed(3)} to ${high.toFixed(3)}`}>
      <line x1={150} x2={150} y1={2} y2={22} stroke="var(--mantine-color-dimmed)" strokeDasharray="2 2" />
      <line x1={x(low)} x2={x(high)} y1={12} y2={12} stroke="var(--mantine-primary-color-filled)" strokeWidth={3} />
      <circle cx={x(at)} cy={12} r={4} fill="var(--mantine-primary-color-filled)" />
      <text x={150} y={32} textAnchor="middle" fontSize={9} fill="var(--mantine-color-dimmed)">no effect</text>
    </svg>
  );
}

function Origins({ run, item }: { run: string; item: string }) {
  const found = useProvenance(run, item);
  return (
    <Card className="card" withBorder>
      <Title order={3} mb="xs">Where it comes from, and where it was shown</Title>
      <Told of={found}>{(p) => (
        <Stack gap="sm">
          {([["Made from", p.made_from], ["Made of it", p.made]] as const).map(([title, links]) => links.length > 0 && (
            <div key={title}><Text size="sm" fw={600}>{title}</Text>{links.slice(0, 20).map((link) => <Text size="sm" key={`${link.id}${link.how}`} lineClamp={2}>{link.how}: {link.item ? <Link to={`/runs/${run}/memory/${link.id}`}>{link.item.text}</Link> : <RolloutLink run={run} id={link.id} />}</Text>)}{links.length > 20 && <Text size="xs" c="dimmed">and {links.length - 20} more</Text>}</div>
          ))}
          <div><Text size="sm" fw={600}>Shown</Text>
            {p.uses.length ? <Table><Table.Thead><Table.Tr><Table.Th>step</Table.Th><Table.Th>problem</Table.Th><Table.Th>v</Table.Th><Table.Th>how</Table.Th><Table.Th ta="right">reward</Table.Th></Table.Tr></Table.Thead><Table.Tbody>{p.uses.slice(0, 25).map((use) => <Table.Tr key={`${use.step}${use.problem_id}`} className="num"><Table.Td>{use.step}</Table.Td><Table.Td><Link to={`/runs/${run}/rollouts?step=${use.step}&problem_id=${use.problem_id}`}>{use.problem_id}</Link></Table.Td><Table.Td>{use.version}</Table.Td><Table.Td className="nowrap">{use.shown ? "shown" : "held out"}</Table.Td><Table.Td ta="right">{use.reward == null ? "–" : use.reward.toFixed(2)}</Table.Td></Table.Tr>)}</Table.Tbody></Table> : <Text size="sm" c="dimmed">In no context so far.</Text>}
            {p.uses.length > 25 && <Text size="xs" c="dimmed">the newest 25 of {p.uses.length}{p.uses.length === 200 ? " or more" : ""}</Text>}</div>
        </Stack>
      )}</Told>
    </Card>
  );
}

/** `<step>:<rollout>`, as sources name rollouts. */
function RolloutLink({ run, id }: { run: string; id: string }) {
  const [step, ...rest] = id.split(":");
  const rollout = rest.join(":");
  if (!rollout || !/^\d+$/.test(step ?? "")) return <>{id}</>;
  return <Link to={`/runs/${run}/rollouts?step=${step}&rollout=${encodeURIComponent(rollout)}`}>{id}</Link>;
}
