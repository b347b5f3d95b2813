"""The command that prints what a shell has to know to complete words: completion."""

from __future__ import annotations

import click

from mountcache.cli.session import tell

__all__ = ["completion"]

_BASH = """\
# mountcache, for bash 4.4 or later
_mountcache() {
    local answer
    mapfile -t answer < <(
        _MOUNTCACHE_COMPLETE=bash _MOUNTCACHE_LINE="${COMP_LINE:0:COMP_POINT}" \\
            _MOUNTCACHE_BREAKS="$COMP_WORDBREAKS" "${1/#\\~/$HOME}" 2>/dev/null
    )
    COMPREPLY=("${answer[@]:1}")
    case ${answer[0]} in
        part) compopt -o nospace ;;
        files) compopt -o default ;;
        dirs) compopt -o dirnames ;;
    esac
}
complete -o nosort -F _mountcache mountcache
"""

_ZSH = """\
#compdef mountcache
_mountcache() {
    local -a answer whole part
    answer=("${(@f)$(_MOUNTCACHE_COMPLETE=zsh ${(Q)words[1]} \\
        "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    case $answer[1] in
        files) _files ;;
        dirs) _files -/ ;;
        *)
            whole=("${(@)answer[2,-1]:#*/}")
            part=("${(@M)answer[2,-1]:#*/}")
            (( $#part )) && compadd -S '' -a part
            (( $#whole )) && compadd -a whole
            ;;
    esac
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _mountcache "$@"
else
    compdef _mountcache mountcache
fi
"""

_FISH = """\
# mountcache
function __mountcache_complete
    set -l words (commandline -opc)
    set -l word (commandline -ct | string unescape)
    set -l answer (_MOUNTCACHE_COMPLETE=fish command mountcache $words[2..-1] "$word" 2>/dev/null)
    switch "$answer[1]"
        case files
            __fish_complete_path (commandline -ct)
        case dirs
            __fish_complete_directories (commandline -ct)
        case '*'
            printf '%s\\n' $answer[2..-1]
    end
end
complete -c mountcache -f -a '(__mountcache_complete)'
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


@click.command()
@click.argument("shell", type=click.Choice(list(_SCRIPTS)))
def completion(shell: str) -> None:
    """Print a script that lets Tab complete commands, options and keys.

    \b
    For bash, in ~/.bashrc:  eval "$(mountcache completion bash)"
    For zsh, in ~/.zshrc:    eval "$(mountcache completion zsh)"
    For fish:  mountcache completion fish > ~/.config/fish/completions/mountcache.fish

    Keys come from what is known here: upstream isn't asked, and nothing is made.
    """
    tell(_SCRIPTS[shell].rstrip("\n"))
