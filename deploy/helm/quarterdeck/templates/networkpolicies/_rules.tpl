{{/* (dict "root" . "components" LIST): peers, the release's own pods of these components. */}}
{{- define "quarterdeck.peers" -}}
{{- $peers := list -}}
{{- range .components -}}
{{- $labels := include "quarterdeck.selector" (dict "root" $.root "component" .) | fromYaml -}}
{{- $peers = append $peers (dict "podSelector" (dict "matchLabels" $labels)) -}}
{{- end -}}
{{- toYaml $peers -}}
{{- end -}}

{{/* (dict "root" . "component" NAME): the first lines of a component's policy. */}}
{{- define "quarterdeck.policy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "quarterdeck.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "quarterdeck.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
{{- end -}}

{{/* (dict "root" . "port" NUMBER): who may use api and gateway, and read their metrics. */}}
{{- define "quarterdeck.fromClients" -}}
- ports:
    - port: {{ .port }}
      protocol: TCP
  {{- with .root.Values.networkPolicies.clients }}
  from:
    {{- include "quarterdeck.peers" (dict "root" $.root "components" $.components) | nindent 4 }}
    {{- toYaml . | nindent 4 }}
    {{- with $.root.Values.networkPolicies.metrics }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
{{- end -}}

{{/* A rule to the database: the release's own, or what the values name. */}}
{{- define "quarterdeck.toDatabase" -}}
{{- if .Values.postgresql.enabled }}
- to:
    {{- include "quarterdeck.peers" (dict "root" . "components" (list "postgresql")) | nindent 4 }}
  ports:
    - port: 5432
      protocol: TCP
{{- else }}
{{ toYaml .Values.networkPolicies.egress.database }}
{{- end }}
{{- end -}}

{{- define "quarterdeck.toArtifacts" -}}
{{- if not .Values.artifacts.persistence.enabled }}
{{- with .Values.networkPolicies.egress.artifacts }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end -}}
