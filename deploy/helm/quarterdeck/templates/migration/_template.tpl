{{- define "quarterdeck.migrationTemplate" -}}
metadata:
  {{- include "quarterdeck.podMetadata" . | nindent 2 }}
spec:
  {{- include "quarterdeck.podBase" . | nindent 2 }}
  restartPolicy: Never
  containers:
    - name: migration
      {{- include "quarterdeck.containerBase" (merge (dict "image" "control") .) | nindent 6 }}
      # A newer schema is left alone: migrations only expand, so a rollback goes on under it.
      command: [quarterdeck, db, upgrade, --allow-newer, --timeout, "120"]
      env:
        {{- include "quarterdeck.storeEnv" .root | nindent 8 }}
        {{- with .values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      volumeMounts:
        {{- include "quarterdeck.mounts" (merge (dict "database" true "options" true) .) | nindent 8 }}
  volumes:
    {{- include "quarterdeck.volumes" (merge (dict "database" true "options" true) .) | nindent 4 }}
{{- end -}}
