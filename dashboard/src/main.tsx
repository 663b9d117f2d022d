import "@mantine/core/styles.css";
import "@mantine/notifications/styles.css";
import "./app.css";
import { localStorageColorSchemeManager, MantineProvider } from "@mantine/core";
import { Notifications } from "@mantine/notifications";
import { MutationCache, QueryCache, QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { lazy, StrictMode, Suspense } from "react";
import { createRoot } from "react-dom/client";
import { BrowserRouter, Navigate, Route, Routes } from "react-router-dom";
import { Refusal } from "./api/client";
import { noticed } from "./api/session";
import { RunsPage } from "./runs/RunsPage";
import { Door, Shell } from "./shell";
import { theme, variables } from "./theme";
import { Empty, Loading } from "./ui/states";

const ComparePage = lazy(() => import("./runs/ComparePage"));
const RunPage = lazy(() => import("./run/RunPage"));
const SystemPage = lazy(() => import("./system/SystemPage"));

// What is refused stays refused; what is away is asked for again.
const again = (count: number, error: Error) =>
  count < 2 && !(error instanceof Refusal && error.status >= 400 && error.status < 500);

const client = new QueryClient({
  queryCache: new QueryCache({ onError: noticed }),
  mutationCache: new MutationCache({ onError: noticed }),
  defaultOptions: { queries: { retry: again, staleTime: 2000, refetchOnWindowFocus: false } },
});

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <MantineProvider theme={theme} cssVariablesResolver={variables} defaultColorScheme="auto" colorSchemeManager={localStorageColorSchemeManager({ key: "pmd-colours" })}>
      <Notifications position="bottom-right" />
      <QueryClientProvider client={client}>
        <BrowserRouter>
          <Door>
            <Shell>
              <Suspense fallback={<Loading />}>
                <Routes>
                  <Route path="/" element={<RunsPage />} />
                  <Route path="/runs" element={<Navigate to="/" replace />} />
                  <Route path="/compare" element={<ComparePage />} />
                  <Route path="/runs/:run/*" element={<RunPage />} />
                  <Route path="/system" element={<SystemPage />} />
                  <Route path="*" element={<Empty title="No such page">The list of runs is at <a href="/">/</a>.</Empty>} />
                </Routes>
              </Suspense>
            </Shell>
          </Door>
        </BrowserRouter>
      </QueryClientProvider>
    </MantineProvider>
  </StrictMode>,
);
