{{/* Objects that several components have, each by (dict "root" . "component" NAME). */}}

{{- define "quarterdeck.serviceAccount" -}}
{{- $values := .values | default (index .root.Values .component) -}}
{{- if $values.serviceAccount.create -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "quarterdeck.metadata" (merge (dict "name" (include "quarterdeck.serviceAccountName" .) "annotations" (merge (dict) (.annotations | default dict) $values.serviceAccount.annotations)) .) | nindent 2 }}
automountServiceAccountToken: false
{{- end }}
{{- end -}}

{{/* maxUnavailable, not minAvailable: with one copy that would hold up every drain for ever. */}}
{{- define "quarterdeck.podDisruptionBudget" -}}
{{- $values := index .root.Values .component -}}
{{- if $values.podDisruptionBudget.enabled -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "quarterdeck.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ $values.podDisruptionBudget.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "quarterdeck.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{- define "quarterdeck.horizontalPodAutoscaler" -}}
{{- $values := index .root.Values .component -}}
{{- if $values.autoscaling.enabled -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "quarterdeck.metadata" . | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "quarterdeck.fullname" .root }}-{{ .component }}
  minReplicas: {{ $values.autoscaling.minReplicas }}
  maxReplicas: {{ $values.autoscaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ $values.autoscaling.cpuUtilization }}
  behavior:
    scaleDown: # streams last minutes
      stabilizationWindowSeconds: 300
      policies:
        - type: Pods
          value: 1
          periodSeconds: 60
{{- end }}
{{- end -}}

{{- define "quarterdeck.service" -}}
{{- $values := index .root.Values .component -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "quarterdeck.metadata" (merge (dict "annotations" $values.service.annotations) .) | nindent 2 }}
spec:
  type: {{ $values.service.type }}
  ports:
    - name: http
      port: {{ $values.service.port }}
      targetPort: http
      appProtocol: http
      {{- with $values.service.nodePort }}
      nodePort: {{ . }}
      {{- end }}
  selector:
    {{- include "quarterdeck.selector" . | nindent 4 }}
{{- end -}}
