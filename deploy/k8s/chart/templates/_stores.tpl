{{/* Probes of a server that speaks a protocol of its own, by the name of its port. */}}
{{- define "pmd.tcpProbes" -}}
startupProbe:
  tcpSocket: {port: {{ . }}}
  periodSeconds: 3
  failureThreshold: 60
livenessProbe:
  tcpSocket: {port: {{ . }}}
  periodSeconds: 15
  failureThreshold: 4
readinessProbe:
  tcpSocket: {port: {{ . }}}
  periodSeconds: 5
  failureThreshold: 2
{{- end }}

{{- define "pmd.weaviateProbes" -}}
startupProbe:
  httpGet: {path: /v1/.well-known/live, port: http}
  periodSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /v1/.well-known/live, port: http}
  periodSeconds: 15
  timeoutSeconds: 10
  failureThreshold: 4
readinessProbe:
  httpGet: {path: /v1/.well-known/ready, port: http}
  periodSeconds: 5
  timeoutSeconds: 10
  failureThreshold: 2
{{- end }}
