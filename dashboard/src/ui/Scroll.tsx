// What is wider than a narrow window scrolls by itself, by keys too.
import { Table, type TableProps } from "@mantine/core";

export function WideTable({ label, minWidth, ...rest }: TableProps & { label: string; minWidth: number }) {
  return (
    <div className="card" style={{ overflowX: "auto" }} tabIndex={0} role="group" aria-label={label}>
      <Table style={{ minWidth }} {...rest} />
    </div>
  );
}
