// Colours and sizes. The series colours are those of the reports (gateway/report/plot.css): told apart by people who are
// blind to red or green, light and dark alike.
import { createTheme, defaultVariantColorsResolver, Modal, Notification, type CSSVariablesResolver } from "@mantine/core";

export const theme = createTheme({
  primaryColor: "blue",
  primaryShade: { light: 8, dark: 4 },
  // Fills are dark by day and pale by night, so what is written on them turns over; `autoContrast` knows the day's alone.
  variantColorResolver: (input) => ({ ...defaultVariantColorsResolver(input), ...(input.variant === "filled" ? { color: "var(--on-filled)" } : {}) }),
  defaultRadius: "sm",
  components: {
    Modal: Modal.extend({ defaultProps: { closeButtonProps: { "aria-label": "Close" } } }),
    Notification: Notification.extend({ defaultProps: { closeButtonProps: { "aria-label": "Close" } } }),
  },
  fontFamilyMonospace: "ui-monospace, SFMono-Regular, Menlo, Consolas, 'Liberation Mono', monospace",
  headings: { fontWeight: "650", sizes: { h1: { fontSize: "1.35rem" }, h2: { fontSize: "1.1rem" }, h3: { fontSize: "0.98rem" } } },
});

/** Text that stands back must still be read: 4.5 to 1. */
export const variables: CSSVariablesResolver = () => ({
  variables: {},
  light: { "--mantine-color-dimmed": "#4d555e", "--mantine-color-body": "#fbfbfa", "--card": "#ffffff", "--rule": "#dcdcd6", "--on-filled": "#ffffff" },
  dark: { "--mantine-color-dimmed": "#a9b1ba", "--mantine-color-body": "#15171a", "--card": "#1c1f23", "--on-filled": "#10151a", "--rule": "#343a41", "--mantine-color-text": "#e6e8ea" },
});

export type Palette = { series: string[]; text: string; soft: string; rule: string; card: string; mark: string };

export const LIGHT: Palette = {
  series: ["#0067a6", "#c44e00", "#00795a", "#9c4681", "#8f6d00", "#68717d", "#1c1e21"],
  text: "#1c1e21", soft: "#5d646d", rule: "#e3e3de", card: "#ffffff", mark: "#8a4b00",
};
export const DARK: Palette = {
  series: ["#63b3ed", "#ff9a57", "#3ecf9f", "#e096c8", "#e3c04a", "#9aa5b1", "#eceef0"],
  text: "#e6e8ea", soft: "#a9b1ba", rule: "#343a41", card: "#1c1f23", mark: "#ffc078",
};
