// The request behind a view, to go on with in a terminal or a notebook.
import { ActionIcon, Button, Code, Group, Popover, SegmentedControl, Stack, Text, Tooltip } from "@mantine/core";
import { IconTerminal2 } from "@tabler/icons-react";
import { useState } from "react";

const curl = (url: string) => `curl -s -H "Authorization: Bearer $(head -1 var/token)" '${url}'`;

const pandas = (url: string, rows: string) => `import httpx, pandas as pd
token = open("var/token").readline().strip()
said = httpx.get("${url}", headers={"Authorization": f"Bearer {token}"}).raise_for_status().json()
df = pd.json_normalize(said${rows ? `["${rows}"]` : ""})`;

/** A button that shows a request of the API as curl and as pandas. `rows` names the list in its answer. */
export function Copy({ path, rows = "" }: { path: string; rows?: string }) {
  const [how, setHow] = useState("curl");
  const [done, setDone] = useState("");
  const url = window.location.origin + path;
  const text = how === "curl" ? curl(url) : pandas(url, rows);
  const copy = () =>
    navigator.clipboard
      .writeText(text)
      .then(() => setDone("copied"), () => setDone("the browser forbids it here: mark the text and copy it"));
  return (
    <Popover width="min(560px, 92vw)" position="bottom-end" withArrow shadow="md" trapFocus onChange={() => setDone("")}>
      <Tooltip label="As curl, or in pandas">
        <Popover.Target>
          <ActionIcon variant="default" size="lg" aria-label="Copy this view's request as curl or pandas">
            <IconTerminal2 size={18} aria-hidden />
          </ActionIcon>
        </Popover.Target>
      </Tooltip>
      <Popover.Dropdown>
        <Stack gap="xs">
          <Group justify="space-between">
            <SegmentedControl size="xs" value={how} onChange={setHow} data={["curl", "pandas"]} aria-label="Form" />
            <Group gap="xs"><Text size="xs" role="status">{done}</Text><Button size="xs" onClick={() => void copy()}>Copy</Button></Group>
          </Group>
          <Code block tabIndex={0} style={{ whiteSpace: "pre-wrap" }}>{text}</Code>
        </Stack>
      </Popover.Dropdown>
    </Popover>
  );
}
