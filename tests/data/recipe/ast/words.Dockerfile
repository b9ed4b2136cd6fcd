FROM x
ENV a=b c="d e" f=g\ h i=''
LABEL legacy the rest  of it
ARG n v="a b"
COPY --from=a --chown="b c" "x y" z
HEALTHCHECK --interval=5s CMD  curl  x
ONBUILD ADD --chmod=1 ["a b", "c"]
EXPOSE 80 90/udp
VOLUME /a /b
USER a b
WORKDIR  /a b	
RUN --mount=type=cache,target=/x -- --y
NOSUCH thing
