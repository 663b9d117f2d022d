// Which colour is which service.
import { Group, Text } from "@mantine/core";
import type { ReactNode } from "react";
import { usePalette } from "../ui/Status";
import { SERVICES } from "./series";

export function ServiceKey({ children }: { children?: ReactNode }) {
  const palette = usePalette();
  return (
    <Group gap="md" mb={4}>
      {SERVICES.map((service, n) => <Text key={service} size="xs"><span aria-hidden style={{ color: palette.series[n], fontSize: "1.2em" }}>■ </span>{service}</Text>)}
      {children}
    </Group>
  );
}
