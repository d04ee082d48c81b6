"""Single files 单个文件: photos, sound, documents, results of instruments, each with its versions."""
