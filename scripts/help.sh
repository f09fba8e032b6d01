# For the other scripts, `source scripts/help.sh "$0" "$@"`: where --help or -h is among the arguments, prints the comment at the
# head of the script and ends. Needs nothing that has to be set up.
for argument in "${@:2}"; do
    if [[ $argument == --help || $argument == -h ]]; then
        sed -n '2,/^set /s/^# \{0,1\}//p' "$1"
        echo "Keys and groups: docs/configuration.md"
        exit 0
    fi
done
