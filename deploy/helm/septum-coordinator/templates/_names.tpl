{{- define "septum.name" -}}
{{- printf "%s-septum" .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "septum.selector" -}}
app.kubernetes.io/name: septum-coordinator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "septum.labels" -}}
{{ include "septum.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "septum.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end -}}
{{- end -}}

{{- define "septum.container" -}}
image: {{ include "septum.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  privileged: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
resources:
  {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  - {name: data, mountPath: /data}
  - {name: tmp, mountPath: /tmp}
{{- end -}}
