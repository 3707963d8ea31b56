{{- define "name" -}}
{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "selector" -}}
app.kubernetes.io/name: postgres
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "labels" -}}
{{ include "selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: home-lab
{{- end }}

{{- define "podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.user }}
runAsGroup: {{ .Values.user }}
fsGroup: {{ .Values.user }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* A pod that runs one of the scripts: (dict "root" $ "script" "backup" "resources" ... "env" ...) */ -}}
{{- define "scriptPod" -}}
restartPolicy: Never
automountServiceAccountToken: false
securityContext:
  {{- include "podSecurity" .root | nindent 2 }}
containers:
  - name: {{ .script }}
    image: {{ .root.Values.image }}
    command: [sh, /scripts/{{ .script }}.sh]
    securityContext:
      {{- include "containerSecurity" .root | nindent 6 }}
    env:
      - {name: BACKUPS, value: /backups}
      - {name: PGHOST, value: {{ include "name" .root }}}
      - {name: PGUSER, value: postgres}
      - name: PGPASSWORD
        valueFrom:
          secretKeyRef: {name: {{ .root.Values.auth }}, key: postgres-password}
      {{- with .env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    volumeMounts:
      - {name: scripts, mountPath: /scripts}
      - {name: scratch, mountPath: /tmp}
      {{- if .backups }}
      - {name: backups, mountPath: /backups}
      {{- end }}
    resources:
      {{- toYaml .resources | nindent 6 }}
volumes:
  - name: scripts
    configMap: {name: {{ include "name" .root }}-scripts}
  - name: scratch
    emptyDir: {sizeLimit: {{ .scratch }}}
  {{- if .backups }}
  - name: backups
    persistentVolumeClaim: {claimName: {{ include "name" .root }}-backups}
  {{- end }}
{{- end }}
