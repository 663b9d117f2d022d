import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// `npm run dev` asks the gateway that `pmd up` started; PMD_URL names another.
const gateway = process.env.PMD_URL ?? "http://127.0.0.1:8700";

export default defineConfig({
  plugins: [react()],
  build: {
    outDir: "../gateway/dashboard",
    emptyOutDir: false, // the folder is a Python package; scripts/build.mjs removes what is old
    assetsDir: "assets",
    modulePreload: { polyfill: false }, // it is an inline script in old browsers' stead
    chunkSizeWarningLimit: 700,
    reportCompressedSize: true,
  },
  server: { proxy: { "/v1": gateway, "/docs": gateway, "/openapi.json": gateway, "/readyz": gateway } },
});
