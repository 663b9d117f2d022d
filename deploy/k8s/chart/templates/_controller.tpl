{{/* Where the gateway and its controller find the services. */}}
{{- define "pmd.addresses" -}}
{{- range list "rollout" "verifier" "memory" "trainer" }}
PMD_{{ upper . }}_URL: {{ include "pmd.url" (dict "root" $ "component" .) }}
{{- end }}
{{- end }}

{{/* dict root, component, scaling: of a Deployment, by CPU. */}}
{{- define "pmd.hpa" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ include "pmd.name" .root }}-{{ .component }}
  labels: {{ include "pmd.labels" . | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "pmd.name" .root }}-{{ .component }}
  minReplicas: {{ .scaling.minReplicas }}
  maxReplicas: {{ .scaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {type: Utilization, averageUtilization: {{ .scaling.cpuPercent }}}
{{- end }}

{{/* dict root, component, args, env, credentials, runs: the pod of a Celery process. */}}
{{- define "pmd.controllerPod" -}}
{{- include "pmd.pod" (merge (dict
      "image" "api" "user" 10001 "project" true "state" "/state"
      "args" (concat (list "pmd.gateway.controller") .args)
      "probes" (include "pmd.pulseProbes" .component) "grace" 60
    ) .) }}
{{- end }}
