// A chart: ECharts in a box, in the colours of the page. Dragging over it chooses an interval, where one is wanted.
import { Skeleton } from "@mantine/core";
import type { EChartsCoreOption, ECharts } from "echarts/core";
import { useEffect, useRef, useState } from "react";

export type Interval = [number, number];

type Props = {
  option: EChartsCoreOption;
  label: string;
  height?: number;
  /** Charts of one group show the same step under the pointer. */
  group?: string;
  onInterval?: (interval: Interval) => void;
  onPoint?: (seriesName: string, data: unknown) => void;
};

export function Chart({ option, label, height = 220, group, onInterval, onPoint }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const chart = useRef<ECharts | null>(null);
  const [ready, setReady] = useState(false);
  const heard = useRef({ onInterval, onPoint });
  heard.current = { onInterval, onPoint };

  useEffect(() => {
    let gone = false;
    let watch: ResizeObserver | undefined;
    void import("./echarts").then(({ echarts }) => {
      if (gone || !box.current) return;
      const made = echarts.init(box.current);
      chart.current = made;
      if (group) {
        made.group = group;
        echarts.connect(group);
      }
      made.on("datazoom", (event) => {
        const zoom = (event as { batch?: { startValue?: number; endValue?: number }[] }).batch?.[0];
        if (zoom?.startValue != null && zoom.endValue != null) heard.current.onInterval?.([zoom.startValue, zoom.endValue]);
      });
      made.on("click", (event) => heard.current.onPoint?.(event.seriesName ?? "", event.data));
      watch = new ResizeObserver(() => made.resize());
      watch.observe(box.current);
      setReady(true);
    });
    return () => {
      gone = true;
      watch?.disconnect();
      chart.current?.dispose();
      chart.current = null;
    };
  }, [group]);

  useEffect(() => {
    const made = chart.current;
    if (!made || !ready) return;
    const chooses = Boolean(onInterval) && window.matchMedia("(pointer: fine)").matches;
    const toolbox = { show: true, itemSize: 0, top: -20, feature: { dataZoom: { yAxisIndex: "none" } } };
    made.setOption({ animation: false, ...option, ...(chooses ? { toolbox } : {}) }, { notMerge: true });
    if (chooses) made.dispatchAction({ type: "takeGlobalCursor", key: "dataZoomSelect", dataZoomSelectActive: true });
  }, [option, ready, onInterval]);

  return (
    <div style={{ position: "relative" }}>
      {!ready && <Skeleton height={height} style={{ position: "absolute", inset: 0 }} />}
      <div ref={box} role="img" aria-label={label} style={{ height, width: "100%" }} />
    </div>
  );
}
