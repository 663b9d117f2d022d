// What a run remembers: three levels, filtered or searched by words and meaning.
import { Alert, Badge, Button, Checkbox, Group, Modal, SegmentedControl, Select, Stack, Table, Text, Textarea, TextInput, VisuallyHidden } from "@mantine/core";
import { useDebouncedValue, useDisclosure } from "@mantine/hooks";
import { IconArrowBackUp } from "@tabler/icons-react";
import { useState } from "react";
import { Link, useParams, useSearchParams } from "react-router-dom";
import { api, told, type Item } from "../api/client";
import { Copy } from "../ui/Copy";
import { useKeys } from "../ui/keys";
import { Empty, Failure, Loading } from "../ui/states";
import { useAct, useBank, useItems, useSearch, type Level, type ListFilter } from "./queries";

const LEVELS: Level[] = ["behavior", "insight", "experience"];
const ABOUT: Record<Level, string> = {
  behavior: "Rules across problems, made of insights.", insight: "Strategies and lessons of one problem, made of its attempts.", experience: "Raw attempts, as they were judged.",
};
type Listed = Pick<Item, "id" | "level" | "kind" | "text" | "problem_id" | "version"> & Partial<Item> & { score?: number };

export default function MemoryPage() {
  const { run = "" } = useParams();
  const [params, setParams] = useSearchParams();
  const put = (name: string, value: string | null) => setParams((old) => {
    const next = new URLSearchParams(old);
    if (value) next.set(name, value);
    else next.delete(name);
    return next;
  }, { replace: true });
  const level = (params.get("level") ?? "behavior") as Level;
  const how = (params.get("how") ?? "filter") as "filter" | "hybrid" | "text" | "vector";
  const [q] = useDebouncedValue(params.get("q") ?? "", 250);
  const filter: ListFilter = {
    level, status: (params.get("status") ?? "active") as ListFilter["status"], sort: (params.get("sort") ?? "newest") as ListFilter["sort"],
    ...(params.get("protected") ? { protected: true } : {}), ...(params.get("problem_id") ? { problem_id: params.get("problem_id")! } : {}), ...(how === "filter" && q ? { q } : {}),
  };
  const searches = how !== "filter" && q.trim() !== "";
  const bank = useBank(run);
  const list = useItems(run, filter);
  const found = useSearch(run, level, q, searches ? (how as "hybrid") : "hybrid", searches);
  const items: Listed[] = searches ? (found.data?.results[0] ?? []) : (list.data?.pages.flatMap((page) => page.items) ?? []);
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const [at, setAt] = useState(-1);
  const walk = (by: number) => {
    const next = Math.min(Math.max(at + by, 0), items.length - 1);
    setAt(next);
    document.getElementById(`item-${items[next]?.id}`)?.focus();
  };
  useKeys([["j", () => walk(1)], ["k", () => walk(-1)]]); // a link has the focus then, so Enter opens it
  const query = searches ? found : list;
  const path = searches ? `/v1/runs/${run}/bank/search?${new URLSearchParams({ q, level, mode: how, limit: "50" })}` : `/v1/runs/${run}/memory?${new URLSearchParams(Object.entries(filter).map(([k, v]): [string, string] => [k, String(v)]))}`;
  if (bank.isError) return bank.error.message.includes("no memory") ? <Empty title="This run has no memory">{bank.error.message}. Methods <code>pmd</code> and <code>memory_agent</code> have one.</Empty> : <Failure error={bank.error} again={() => void bank.refetch()} />;
  return (
    <Stack>
      <VisuallyHidden component="h2">Memory</VisuallyHidden>
      <Group justify="space-between" align="flex-end">
        <Stack gap={4}>
          <SegmentedControl value={level} onChange={(value) => { put("level", value); setChosen(new Set()); }} data={LEVELS.map((value) => ({ value, label: `${value}${bank.data ? ` ${bank.data[value]}` : ""}` }))} aria-label="Level" />
          <Text size="sm" c="dimmed">{ABOUT[level]}</Text>
        </Stack>
        <Group gap="xs"><UndoButton run={run} /><Copy path={path} rows={searches ? "results" : "items"} /></Group>
      </Group>
      <Group align="flex-end" gap="xs">
        <TextInput label="Find" value={params.get("q") ?? ""} onChange={(e) => put("q", e.currentTarget.value)} w={{ base: "100%", xs: 240 }} />
        <Select label="by" data={[{ value: "filter", label: "beginnings of words" }, { value: "hybrid", label: "words and meaning" }, { value: "text", label: "words, ranked" }, { value: "vector", label: "meaning" }]} value={how} allowDeselect={false} onChange={(value) => put("how", value)} w={180} />
        {!searches && <>
          <Select label="Status" data={["active", "retired", "quarantined", "banned", "superseded", "any"]} value={filter.status} allowDeselect={false} onChange={(value) => put("status", value)} w={130} />
          <Select label="Order" data={["newest", "oldest", "text"]} value={filter.sort} allowDeselect={false} onChange={(value) => put("sort", value)} w={110} />
          <Checkbox label="held by people" checked={Boolean(filter.protected)} onChange={(e) => put("protected", e.currentTarget.checked ? "1" : null)} mb={8} />
        </>}
        {chosen.size > 0 && <MergeButton run={run} items={items.filter((item) => chosen.has(item.id))} done={() => setChosen(new Set())} />}
      </Group>
      {query.isError ? <Failure error={query.error} again={() => void query.refetch()} /> : query.isPending && query.fetchStatus !== "idle" ? <Loading /> : !items.length ? (
        <Empty title="Nothing here">{q ? "Nothing matches; take a word out, or look at another level or status." : level === "behavior" ? "Behaviors come when insights of several problems agree: a few steps into the run." : "The first steps write here."}</Empty>
      ) : (
        <Table className="card" verticalSpacing={6}>
          <Table.Thead><Table.Tr><Table.Th w={36}><VisuallyHidden>Choose to merge</VisuallyHidden></Table.Th><Table.Th>Memory</Table.Th><Table.Th visibleFrom="sm" ta="right" className="nowrap">{searches ? "score" : level === "behavior" ? "problems that agree" : "passed of tried"}</Table.Th><Table.Th visibleFrom="sm" ta="right">step</Table.Th></Table.Tr></Table.Thead>
          <Table.Tbody>{items.map((item, n) => (
            <Table.Tr key={item.id} bg={n === at ? "var(--mantine-primary-color-light)" : undefined}>
              <Table.Td style={{ verticalAlign: "top" }}>{level !== "experience" && <Checkbox size="xs" aria-label={`Choose ${item.id}`} checked={chosen.has(item.id)} onChange={({ currentTarget: { checked: on } }) => setChosen((old) => { const next = new Set(old); if (on) next.add(item.id); else next.delete(item.id); return next; })} />}</Table.Td>
              <Table.Td>
                <Link id={`item-${item.id}`} to={`/runs/${run}/memory/${item.id}`} style={{ textDecoration: "none", color: "inherit" }}><Text size="sm" lineClamp={4} style={{ whiteSpace: "pre-wrap" }}>{item.text}</Text></Link>
                <Group gap={6} mt={2}>
                  <Text size="xs" c="dimmed">{item.kind}{item.problem_id ? ` of ${item.problem_id}` : ""}{item.topic ? ` about ${item.topic}` : ""}, v{item.version}</Text>
                  {item.status && item.status !== "active" && <Badge size="xs" variant="default" tt="none">{item.status}</Badge>}
                  {item.pinned && <Badge size="xs" variant="default" tt="none">pinned</Badge>}
                  {item.edited && <Badge size="xs" variant="default" tt="none">edited</Badge>}
                </Group>
              </Table.Td>
              <Table.Td visibleFrom="sm" ta="right" className="num nowrap" style={{ verticalAlign: "top" }}>{item.score != null ? item.score.toFixed(2) : level === "behavior" ? (item.support ?? "–") : item.trials ? `${item.successes ?? 0} of ${item.trials}` : "–"}</Table.Td>
              <Table.Td visibleFrom="sm" ta="right" className="num" style={{ verticalAlign: "top" }}>{item.step ?? ""}</Table.Td>
            </Table.Tr>
          ))}</Table.Tbody>
        </Table>
      )}
      {!searches && list.hasNextPage && <Button variant="default" loading={list.isFetchingNextPage} onClick={() => void list.fetchNextPage()}>More</Button>}
    </Stack>
  );
}

function UndoButton({ run }: { run: string }) {
  const [asks, ask] = useDisclosure(false);
  const [last, setLast] = useState<{ seq: number; action: string; items: unknown[] } | null>(null);
  const look = useAct<void>(run, async () => { setLast(await told(api.POST("/v1/runs/{run}/bank:undo", { params: { path: { run } }, body: { dry_run: true } }))); ask.open(); }, () => "This is what an undo would change.");
  const undo = useAct<number>(run, (seq) => told(api.POST("/v1/runs/{run}/bank:undo", { params: { path: { run } }, body: { seq, dry_run: false } })), () => "Undone. An undo can be undone.");
  return (
    <>
      <Button variant="default" leftSection={<IconArrowBackUp size={16} aria-hidden />} loading={look.isPending} onClick={() => look.mutate()}>Undo</Button>
      <Modal opened={asks} onClose={ask.close} title="Undo the last act of a person?">
        {last && <Text mb="md">“{last.action}” at seq {last.seq}: {last.items.length} {last.items.length === 1 ? "memory goes" : "memories go"} back to what they were.</Text>}
        <Group justify="flex-end"><Button variant="default" onClick={ask.close}>Leave it</Button><Button data-autofocus onClick={() => { if (last) undo.mutate(last.seq); ask.close(); }}>Undo</Button></Group>
      </Modal>
    </>
  );
}

function MergeButton({ run, items, done }: { run: string; items: Listed[]; done: () => void }) {
  const [open, dialog] = useDisclosure(false);
  const [text, setText] = useState("");
  const [shown, setShown] = useState<Listed[]>([]); // as they were read here; what changes meanwhile is not merged unread
  const merge = useAct<void>(run, () => told(api.POST("/v1/runs/{run}/memory:merge", { params: { path: { run } }, body: { items: shown.map(({ id, version }) => ({ id, version })), text, topic: "" } })), () => "Merged: the new note says where it comes from.");
  const newer = items.filter((item) => shown.some(({ id, version }) => id === item.id && version < item.version));
  return (
    <>
      <Button disabled={items.length < 2} onClick={() => { setShown(items); setText(items[0]?.text ?? ""); dialog.open(); }}>Merge {items.length}</Button>
      <Modal opened={open} onClose={dialog.close} title={`Merge ${shown.length} notes into one`} size="lg">
        <Stack>{shown.map((item) => <Text key={item.id} size="sm" className="card" p="xs">{item.text}</Text>)}
          <Textarea label="What the one note says" value={text} onChange={(e) => setText(e.currentTarget.value)} autosize minRows={3} data-autofocus />
          {newer.length > 0 && (
            <Alert variant="outline" color="orange" title="Changed since you opened this" styles={{ title: { color: "var(--mantine-color-text)" } }}>
              <Text size="sm" mb="xs">{newer.map(({ id }) => id).join(", ")}: look at what is said now, then merge. Your text stays.</Text>
              <Button size="xs" variant="default" onClick={() => setShown((old) => old.map((each) => newer.find(({ id }) => id === each.id) ?? each))}>Show what is said now</Button>
            </Alert>
          )}
          <Group justify="flex-end"><Button variant="default" onClick={dialog.close}>Leave them</Button><Button disabled={!text.trim() || newer.length > 0} loading={merge.isPending} onClick={() => merge.mutate(undefined, { onSuccess: () => { dialog.close(); done(); } })}>Merge</Button></Group>
        </Stack>
      </Modal>
    </>
  );
}
